//! Programs that run for minutes and say what they found: the benchmark and the fuzzer, with their own arguments.

use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::build;
use crate::command::run;
use crate::setup::{self, Purpose, is_root};
use crate::workspace::{cargo, root};

/// What the program itself takes; `-- --help` tells.
#[derive(Args)]
pub(crate) struct Arguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// Runs the benchmark.
pub(crate) fn bench(arguments: &Arguments) -> Result<()> {
    root_only()?;
    setup::prepare(&[Purpose::Build, Purpose::Bpf, Purpose::Pods, Purpose::Bench])?;
    // Some rows need a cluster, and have it made for as long as they take.
    let xtask = std::env::current_exe()?;
    run(Command::new(build::benchmark()?).args(&arguments.arguments).env("PODTAP_XTASK", xtask))
}

/// Runs the fuzzer of the filters.
pub(crate) fn fuzz(arguments: &Arguments) -> Result<()> {
    root_only()?;
    setup::prepare(&[Purpose::Build])?;
    let mut fuzzer = cargo();
    fuzzer.args(["run", "--quiet", "--release", "--example", "fuzz", "--"]);
    run(fuzzer.args(&arguments.arguments).current_dir(root()))
}

fn root_only() -> Result<()> {
    if !is_root() {
        bail!("this loads kernel programs: run it as root");
    }
    Ok(())
}
