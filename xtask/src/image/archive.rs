//! An image as one file: its layer, its configuration (OCI image specification, "config"), and a manifest that names
//! both, as `docker save` writes and every container engine reads.

use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::layer::{Layer, append_file, end};
use crate::cluster::hex;

/// What is in an image and how it is run.
pub(super) struct Image<'a> {
    /// Name and tag.
    pub(super) tag: &'a str,
    /// Its files.
    pub(super) layer: Layer,
    /// How it is run.
    pub(super) settings: Settings<'a>,
}

/// How an image is run.
#[derive(Default)]
pub(super) struct Settings<'a> {
    /// The program.
    pub(super) entrypoint: &'a [&'a str],
    /// Its arguments unless others are given; the program too when there is no entry point.
    pub(super) command: &'a [&'a str],
    /// `USER:GROUP` as numbers; root when empty.
    pub(super) user: &'a str,
}

impl Image<'_> {
    /// The archive, and the layer alone.
    pub(super) fn archive(&self) -> Result<(Vec<u8>, Vec<u8>)> {
        let layer = self.layer.tar()?;
        let digest = hex(&Sha256::digest(&layer));
        let mut run = json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
        for (key, words) in [("Entrypoint", self.settings.entrypoint), ("Cmd", self.settings.command)] {
            if !words.is_empty() {
                run[key] = json!(words);
            }
        }
        if !self.settings.user.is_empty() {
            run["User"] = json!(self.settings.user);
        }
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            // The same for the same content.
            "created": "1970-01-01T00:00:00Z",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image"}],
        });
        let config = serde_json::to_vec(&config)?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{digest}/layer.tar");
        let manifest = json!([{"Config": config_name, "RepoTags": [self.tag], "Layers": [layer_name]}]);
        let mut archive = Vec::with_capacity(layer.len() + 16 * 1024);
        append_file(&mut archive, &config_name, &config)?;
        append_file(&mut archive, &layer_name, &layer)?;
        append_file(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?)?;
        end(&mut archive);
        Ok((archive, layer))
    }
}

#[cfg(test)]
mod tests {
    use super::{Image, Settings};
    use crate::image::layer::Layer;

    #[test]
    fn an_archive_names_what_is_in_it() {
        let mut layer = Layer::default();
        layer.file("/a", 0o444, b"content".to_vec());
        let image = Image {
            tag: "a/b:c",
            layer,
            settings: Settings { user: "1:2", command: &["/a"], ..Settings::default() },
        };
        let (archive, layer) = image.archive().unwrap();
        assert_eq!(archive, image.archive().unwrap().0, "made again, it is the same");
        let text = String::from_utf8_lossy(&archive);
        assert!(text.contains(r#""RepoTags":["a/b:c"]"#) && text.contains(r#""User":"1:2""#), "{text}");
        assert!(text.contains(r#""Cmd":["/a"]"#) && !text.contains("Entrypoint"), "{text}");
        assert!(archive.windows(layer.len()).any(|window| window == layer));
    }
}
