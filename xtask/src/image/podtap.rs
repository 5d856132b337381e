//! podtap's own image: its programs, the libraries they are linked to, `tar` for `kubectl cp`, and certificates of the
//! public authorities. No shell, no package manager, nothing that anybody may write to.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::archive::{Image, Settings};
use super::layer::Layer;
use super::write;
use crate::build;
use crate::command::output;
use crate::workspace::{find_program, own};

/// Name and tag when no other was asked for: as in `deploy/`, and nobody can own it (RFC 2606).
pub(super) const NAME: &str = "registry.invalid/podtap:dev";

/// What an image may have in bytes.
const LIMIT: usize = 60_000_000;

/// The user that it runs as unless a manifest says otherwise, as the agent's does.
const USER: &str = "65532:65532";

/// Names that filters may use: of protocols, ports, and Ethernet types.
const NAMES: [&str; 3] = ["/etc/protocols", "/etc/services", "/etc/ethertypes"];

const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds the programs and makes the image's archive.
pub(super) fn make(tag: &str) -> Result<PathBuf> {
    let mut layer = Layer::default();
    for program in build::image_programs()? {
        let name = program.file_name().and_then(|name| name.to_str()).context("a program without name")?;
        layer.program(&format!("/usr/bin/{name}"), &stripped(&program)?)?;
    }
    layer.program("/usr/bin/tar", &find_program("tar").context("no tar")?)?;
    layer.copy(CERTIFICATES, 0o444, Path::new(CERTIFICATES))?;
    for names in NAMES.map(Path::new).into_iter().filter(|names| names.exists()) {
        layer.copy(&names.display().to_string(), 0o444, names)?;
    }
    let settings = Settings { user: USER, ..Settings::default() };
    let path = write("podtap.tar", &Image { tag, layer, settings })?;
    let size = usize::try_from(path.metadata()?.len())?;
    if size > LIMIT {
        bail!("{} has {size} bytes, more than {LIMIT}", path.display());
    }
    eprintln!("     {tag}: {:.1} MB", size as f64 / 1e6);
    Ok(path)
}

/// A copy without debug information.
pub(super) fn stripped(program: &Path) -> Result<PathBuf> {
    let directory = own().join("image");
    std::fs::create_dir_all(&directory)?;
    let copy = directory.join(program.file_name().context("no name")?);
    output(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
    Ok(copy)
}
