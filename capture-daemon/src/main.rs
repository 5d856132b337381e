//! The agent's command line: see `capture-daemon --help`.

use std::process::ExitCode;

use anyhow::Context;
use capture_daemon::cli::{Cli, Command, Run};
use capture_daemon::config::Config;
use capture_daemon::{agent, telemetry};
use clap::Parser;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => start(&run),
        // In this process everything that was read is hostile: nothing else happens here.
        Command::CompileFilter => return capture_filter::child_main(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capture-daemon: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(run: &Run) -> anyhow::Result<()> {
    let config = Config::load(run.config.as_deref(), run.overrides()).context("configuration")?;
    telemetry::logging::start(config.log_format, config.log_level);
    agent::run(&config, &run.pods)?;
    Ok(())
}
