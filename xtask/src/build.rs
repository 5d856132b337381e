//! The kernel programs, and the programs that run.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::command::run;
use crate::setup::{Toolchain, toolchain};
use crate::workspace::{cargo, root, target};

/// Compiles the kernel programs to one object file.
pub(crate) fn kernel_programs() -> Result<PathBuf> {
    build_with(&toolchain()?)
}

fn build_with(toolchain: &Toolchain) -> Result<PathBuf> {
    run(toolchain.cargo("build").args(["--quiet", "--release"]).current_dir(root()))?;
    let object = target().join("bpfel-unknown-none/release/capture-ebpf");
    if !object.is_file() {
        bail!("the build left no {}", object.display());
    }
    Ok(object)
}

/// Compiles the agent with the kernel programs in it.
pub(crate) fn agent() -> Result<PathBuf> {
    // The agent's build finds it where this leaves it.
    kernel_programs()?;
    programs(&["capture-daemon"])?;
    release("capture-daemon")
}

/// The same, and the sender of the tests.
pub(crate) fn agent_and_sender() -> Result<()> {
    kernel_programs()?;
    programs(&["capture-daemon", "podtap-traffic"])
}

/// Compiles what podtap's image holds, and the sender of the tests; gives the former.
pub(crate) fn image_programs() -> Result<Vec<PathBuf>> {
    kernel_programs()?;
    const IMAGE: [&str; 2] = ["capture-daemon", "capture-gateway"];
    programs(&[&IMAGE[..], &["podtap-traffic"]].concat())?;
    IMAGE.into_iter().map(release).collect()
}

/// Compiles the agent and what measures it.
pub(crate) fn benchmark() -> Result<PathBuf> {
    kernel_programs()?;
    programs(&["capture-daemon", "podtap-traffic", "podtap-bench", "podtap-bench-http"])?;
    release("podtap-bench")
}

/// No packages are named: others than those of a plain `cargo build` would have their dependencies built otherwise.
fn programs(names: &[&str]) -> Result<()> {
    let mut build = cargo();
    build.args(["build", "--release"]);
    for name in names {
        build.args(["--bin", name]);
    }
    run(build.current_dir(root()))
}

fn release(name: &str) -> Result<PathBuf> {
    let program = target().join("release").join(name);
    if !program.is_file() {
        bail!("the build left no {}", program.display());
    }
    Ok(program)
}
