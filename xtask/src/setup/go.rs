//! A Go toolchain that is new enough: the one on PATH, or one that any older `go` can download as a module.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{apt, is_root};
use crate::command::{output, step};
use crate::workspace::{find_program, own};

/// What Kubernetes' modules ask for.
const NEEDED: (u32, u32) = (1, 26);
/// What is downloaded in place of an older one.
const TOOLCHAIN: &str = "1.26.8";

/// The `go` to call.
pub(crate) fn go() -> Result<PathBuf> {
    let local = Path::new("/usr/local/go/bin/go");
    let mut found = find_program("go").or_else(|| local.is_file().then(|| local.to_owned()));
    if found.is_none() {
        if !is_root() || find_program("apt-get").is_none() {
            bail!(
                "Kubernetes is built from its Go modules: please install Go {}.{} or later",
                NEEDED.0,
                NEEDED.1
            );
        }
        println!("missing  {:<26} builds Kubernetes (package golang-go)", "go");
        apt::install(&["golang-go"])?;
        found = find_program("go");
    }
    let found = found.context("installed golang-go, and still cannot find go")?;
    let version = output(Command::new(&found).arg("version").env("GOTOOLCHAIN", "local").current_dir("/"))?;
    match parse(&version) {
        Some(version) if version >= NEEDED => Ok(found),
        _ => downloaded(&found).with_context(|| {
            format!(
                "{} is too old ({}): please install Go {}.{} or later",
                found.display(),
                version.trim(),
                NEEDED.0,
                NEEDED.1
            )
        }),
    }
}

/// Toolchains are modules, so that one `go` can fetch another; from 1.21 on it does so by itself, unless told not to.
fn downloaded(old: &Path) -> Result<PathBuf> {
    let home = own().join(format!("go-{TOOLCHAIN}"));
    std::fs::create_dir_all(&home)?;
    let system = match std::env::consts::ARCH {
        "x86_64" => "linux-amd64",
        "aarch64" => "linux-arm64",
        other => bail!("no Go toolchain is known for {other}"),
    };
    let module = format!("golang.org/toolchain@v0.0.1-go{TOOLCHAIN}.{system}");
    let download = |command: &mut Command| {
        command.args(["mod", "download", "-json", &module]).env("GOTOOLCHAIN", "local").env_remove("GOFLAGS");
        command.current_dir(&home).env("GO111MODULE", "on");
    };
    let mut command = Command::new(old);
    download(&mut command);
    step(&format!("go mod download {module}"), &mut command)?;
    // At once, as it is there now; this time for what it says.
    let mut command = Command::new(old);
    download(&mut command);
    let said: Value = serde_json::from_str(&output(&mut command)?)?;
    let root = PathBuf::from(said["Dir"].as_str().context("go says no directory")?);
    // Modules hold no programs, so these are not marked as such.
    output(Command::new("chmod").arg("-R").arg("+x").arg(root.join("bin")).arg(root.join("pkg/tool")))?;
    Ok(root.join("bin/go"))
}

/// Major and minor version in what `go version` says.
fn parse(said: &str) -> Option<(u32, u32)> {
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((1, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(parse("go version go1.19 linux/amd64"), Some((1, 19)));
        assert_eq!(parse("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(parse("no version"), None);
    }
}
