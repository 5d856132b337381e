//! The agent's command line: see `capture-daemon --help`.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;
use capture_daemon::cli::{Cli, Command, FilterCommand, Run};
use capture_daemon::config::Config;
use capture_daemon::filter_command::{self, FilterCommandError};
use capture_daemon::{agent, agent::Requests, telemetry};
use clap::Parser;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => start(&run),
        Command::Filter(command) => filter(&command),
        // In this process everything that was read is hostile: nothing else happens here.
        Command::CompileFilter => return capture_filter::child_main(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capture-daemon: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, each said once: some messages hold their cause's already.
fn told(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).reduce(join).unwrap_or_default()
}

fn join(told: String, cause: String) -> String {
    if told.contains(&cause) { told } else { format!("{told}: {cause}") }
}

fn start(run: &Run) -> anyhow::Result<()> {
    let config = Config::load(run.config.as_deref(), run.overrides()).context("configuration")?;
    telemetry::logging::start(config.log_format, config.log_level);
    let requests = run.pods.as_deref().map_or(Requests::Kubernetes, Requests::Manifests);
    agent::run(&config, requests)?;
    Ok(())
}

fn filter(command: &FilterCommand) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let done = match command {
        FilterCommand::Explain { expression } => filter_command::explain(expression, &mut out),
        FilterCommand::Test { expression, file } => filter_command::test(expression, file, &mut out),
    };
    match done.and_then(|()| Ok(out.flush()?)) {
        // Whoever reads has seen enough: `| head`.
        Err(FilterCommandError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}
