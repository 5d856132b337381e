//! Writes what of `deploy/` follows from this crate into a directory: `cargo xtask generate` runs it.

use std::error::Error;
use std::fs;
use std::path::Path;

use capture_api::{Caps, CapsSpec, CapturePolicy, CapturePolicySpec, definitions, human_bytes, keys};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

const HEAD: &str = "# Made by `cargo xtask generate` from capture-api: change it there.\n";

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os().nth(1).ok_or("which directory?")?;
    let directory = Path::new(&directory);
    for (name, definition) in definitions() {
        let plural = name.split('.').next().unwrap_or(name);
        write(&directory.join("crds").join(format!("{plural}.yaml")), &definition)?;
    }
    write(&directory.join("default-policy/policy.yaml"), &serde_json::to_value(default_policy())?)
}

fn write(file: &Path, object: &Value) -> Result<(), Box<dyn Error>> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let yaml = serde_saphyr::to_string_with_options(object, options)?;
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(file, format!("{HEAD}{yaml}"))?;
    Ok(())
}

/// What is allowed from the start, to namespaces that carry the label: the caps that hold without any.
fn default_policy() -> CapturePolicy {
    let caps = Caps::default();
    let spec = CapturePolicySpec {
        namespace_selector: LabelSelector {
            match_labels: Some([(keys::ALLOW.to_owned(), "true".to_owned())].into()),
            match_expressions: None,
        },
        suspended: false,
        label_requests: Some(true),
        caps: CapsSpec {
            duration: Some(caps.duration.to_string()),
            bytes: Some(human_bytes(caps.bytes).as_str().into()),
            captures: Some(u64::from(caps.captures).into()),
            retention: Some(caps.retention.to_string()),
            ..CapsSpec::default()
        },
    };
    CapturePolicy::new("default", spec)
}
