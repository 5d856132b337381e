//! Kernels from Debian's packages, downloaded from this system's own mirrors and unpacked, not installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{output, step};
use crate::setup::update_package_lists;
use crate::workspace::own;

/// An unpacked kernel.
pub(super) struct Kernel {
    unpacked: PathBuf,
    release: String,
}

impl Kernel {
    /// The newest of a version, downloaded unless it was before.
    pub(super) fn find(version: &str) -> Result<Self> {
        let mut found = newest(version)?;
        if found.is_none() {
            update_package_lists()?;
            found = newest(version)?;
        }
        let package = found.with_context(|| {
            format!("this system's package lists have no linux-image-{version}.*-cloud-amd64: Debian 12's do")
        })?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        Ok(Self { unpacked: unpack(&package)?, release })
    }

    /// What a boot loader loads.
    pub(super) fn image(&self) -> PathBuf {
        self.unpacked.join("boot").join(format!("vmlinuz-{}", self.release))
    }

    /// A module's object, whether the package has it compressed or not.
    pub(super) fn module(&self, name: &str) -> Result<Vec<u8>> {
        let kernel = self.unpacked.join("lib/modules").join(&self.release).join("kernel");
        for directory in ["net/llc", "net/802", "net/bridge", "drivers/net", "net/sched", "net/8021q"] {
            let plain = kernel.join(directory).join(format!("{name}.ko"));
            if plain.exists() {
                return Ok(std::fs::read(plain)?);
            }
            let packed = plain.with_extension("ko.xz");
            if packed.exists() {
                return decompress(&packed);
            }
        }
        bail!("{} has no module {name}", self.release)
    }
}

fn decompress(file: &Path) -> Result<Vec<u8>> {
    let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(file).output()?;
    if !output.status.success() {
        bail!("xz cannot unpack {}", file.display());
    }
    Ok(output.stdout)
}

/// The newest package of a kernel made for virtual machines.
fn newest(version: &str) -> Result<Option<String>> {
    let pattern = format!(r"^linux-image-{}\.[0-9.+a-z-]*cloud-amd64$", version.replace('.', r"\."));
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let names = found.lines().filter_map(|line| line.split_whitespace().next());
    let key = |name: &&str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    Ok(names.max_by_key(key).map(str::to_owned))
}

/// Downloads and unpacks a package unless that was done before.
fn unpack(package: &str) -> Result<PathBuf> {
    let kernels = own().join("kernels");
    let unpacked = kernels.join(package);
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    let download = kernels.join(format!("{package}.download"));
    std::fs::create_dir_all(&download)?;
    // Old lists name versions that the mirrors no longer have.
    if fetch(package, &download).is_err() {
        update_package_lists()?;
        fetch(package, &download)?;
    }
    let file = std::fs::read_dir(&download)?.next().context("nothing was downloaded")??.path();
    let partial = kernels.join(format!("{package}.partial"));
    output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&partial))?;
    std::fs::rename(&partial, &unpacked)?;
    std::fs::remove_dir_all(&download)?;
    Ok(unpacked)
}

fn fetch(package: &str, directory: &Path) -> Result<()> {
    // As root, apt-get wants to download as another user, who has no place here.
    let mut apt = Command::new("apt-get");
    apt.args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(directory);
    step(&format!("apt-get download {package}"), &mut apt)
}
