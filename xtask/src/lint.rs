//! Everything that is said about the sources without running them.

use std::process::Command;

use anyhow::Result;

use crate::command::run;
use crate::generate;
use crate::setup::{self, Purpose, cargo_deny, toolchain};
use crate::workspace::{cargo, root};

/// The crates of user space: linting them needs no compiler for the kernel programs.
const USER_SPACE: [&str; 3] = ["--workspace", "--exclude", "capture-ebpf"];

/// Runs all checks; the first that fails ends it.
pub(crate) fn run_all() -> Result<()> {
    setup::prepare(&[Purpose::Build, Purpose::Bpf, Purpose::Lint])?;
    heading("rustfmt");
    run(&mut inner(&["fmt", "--all", "--check"]))?;
    heading("clippy");
    run(inner(&["clippy", "--quiet", "--all-targets"]).args(USER_SPACE).args(["--", "-D", "warnings"]))?;
    heading("clippy, kernel programs");
    match toolchain()?.clippy() {
        Some(mut clippy) => run(clippy.current_dir(root()))?,
        None => eprintln!("lint: skipped, the compiler of the kernel programs has no clippy"),
    }
    heading("rustdoc");
    run(inner(&["doc", "--quiet", "--no-deps"]).args(USER_SPACE).env("RUSTDOCFLAGS", "-D warnings"))?;
    heading("generated files");
    generate::check()?;
    heading("cargo-deny");
    // Not `advisories`: they come over the network and change without the sources.
    run(Command::new(cargo_deny()?)
        .args(["--log-level", "error", "check", "bans", "licenses", "sources"])
        .current_dir(root()))
}

fn heading(what: &str) {
    eprintln!("lint: {what}");
}

fn inner(words: &[&str]) -> Command {
    let mut command = cargo();
    command.args(words).current_dir(root());
    command
}
