//! Kubernetes itself, built from its Go modules to one program with several names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::layout::bin;
use crate::command::{output, step};
use crate::setup::go;
use crate::workspace::root;

/// What it is called as.
const NAMES: [&str; 5] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"];

/// What it is made of.
const SOURCES: [&str; 3] = ["go.mod", "go.sum", "main.go"];

fn sources() -> PathBuf {
    root().join("tests/cluster/kubernetes")
}

/// Builds it, unless that was done with the same sources.
pub(super) fn build() -> Result<()> {
    let module = fs::read_to_string(sources().join("go.mod"))?;
    let version = version(&module).context("go.mod does not ask for k8s.io/kubernetes")?;
    let stamp = bin().join("stamp");
    let mut digest = Sha256::new();
    for file in SOURCES {
        digest.update(fs::read(sources().join(file)).with_context(|| format!("cannot read {file}"))?);
    }
    let now = hex(&digest.finalize());
    let built = fs::read_to_string(&stamp).is_ok_and(|then| then == now);
    if built && NAMES.iter().all(|name| bin().join(name).exists()) {
        return Ok(());
    }
    let go = go()?;
    fs::create_dir_all(bin())?;
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    let mut numbers = version.trim_start_matches('v').split('.');
    let flags = [
        "-s -w".to_owned(),
        set("gitVersion", version),
        set("gitMajor", numbers.next().unwrap_or_default()),
        set("gitMinor", numbers.next().unwrap_or_default()),
    ];
    let mut build = Command::new(go);
    build.args([
        "build",
        "-trimpath",
        "-mod=readonly",
        "-buildvcs=false",
        "-ldflags",
        &flags.join(" "),
        "-o",
    ]);
    build.arg(bin().join("kubernetes.new")).arg(".").current_dir(sources());
    build.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0").env("GO111MODULE", "on");
    step(&format!("go build Kubernetes {version} (the first time some minutes)"), &mut build)?;
    fs::rename(bin().join("kubernetes.new"), bin().join("kubernetes"))?;
    for name in NAMES {
        let link = bin().join(name);
        if link.symlink_metadata().is_err() {
            symlink("kubernetes", &link)?;
        }
    }
    output(Command::new(bin().join("kubectl")).args(["version", "--client"]))?;
    fs::write(stamp, now)?;
    Ok(())
}

/// The release that go.mod asks for.
fn version(module: &str) -> Option<&str> {
    module.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes ")).map(str::trim)
}

/// A digest as text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_the_module() {
        let module = "require (\n\tk8s.io/kubectl v0.36.3\n\tk8s.io/kubernetes v1.36.3\n)\n";
        assert_eq!(super::version(module), Some("v1.36.3"));
    }
}
