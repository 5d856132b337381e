//! The gateway's command line: see `capture-gateway --help`.

use anyhow::{Context, Result};
use capture_gateway::cli::{Cli, Command, LogFormat, LogLevel};
use capture_gateway::logging;
use clap::Parser;

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(run) => {
            logging::start(run.log_format, run.log_level);
            in_runtime(capture_gateway::run(run)).context("gateway")
        }
        Command::CreatePolicy { file } => {
            logging::start(LogFormat::Auto, LogLevel::Info);
            in_runtime(capture_gateway::create_policy(&file))
        }
    }
}

/// One thread: the work is waiting for the API server, and a list of records needs no more than one core.
fn in_runtime<E>(work: impl Future<Output = Result<(), E>>) -> Result<()>
where
    anyhow::Error: From<E>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let done = runtime.block_on(work);
    // A request that nobody answers must not keep the process.
    runtime.shutdown_background();
    Ok(done?)
}
