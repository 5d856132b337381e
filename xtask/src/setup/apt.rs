//! Packages of Debian and Ubuntu.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::is_root;
use crate::command::{output, step};
use crate::workspace::find_program;

/// Installs packages; brings the package lists up to date only when that is what is missing.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let mut packages = packages.to_vec();
    packages.sort_unstable();
    packages.dedup();
    let names = packages.join(" ");
    if find_program("apt-get").is_none() {
        bail!("please install, by the means of this system, what Debian has as: {names}");
    }
    if !is_root() {
        bail!("please run: sudo apt-get install --no-install-recommends {names}");
    }
    let mut updated = false;
    if !all_known(&packages) {
        update()?;
        updated = true;
    }
    let install = || {
        step(
            &format!("apt-get install {names}"),
            apt(&["install", "-y", "--no-install-recommends"]).args(&packages),
        )
    };
    match install() {
        // Old lists name versions that the mirrors no longer have.
        Err(_) if !updated => {
            update()?;
            install()
        }
        outcome => outcome,
    }
    .context("cannot install packages")
}

/// Whether this machine's package lists have a candidate for each of them, not asking any mirror.
pub(crate) fn all_known(packages: &[&str]) -> bool {
    find_program("apt-cache").is_some()
        && packages.iter().all(|package| {
            output(Command::new("apt-cache").args(["policy", package])).is_ok_and(|text| {
                text.lines().any(|line| {
                    line.trim_start()
                        .strip_prefix("Candidate:")
                        .is_some_and(|version| version.trim() != "(none)")
                })
            })
        })
}

/// Brings the package lists up to date.
pub(crate) fn update() -> Result<()> {
    step("apt-get update", &mut apt(&["update"]))
}

fn apt(words: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // No service of what is installed is to be started; invoke-rc.d takes this for a reason not to.
        .env("RUNLEVEL", "1")
        .args(["-o", "DPkg::Lock::Timeout=120", "-qq"])
        .args(words);
    command
}
