//! The gateway's command line: see `capture-gateway --help`.

use anyhow::{Context, Result};
use capture_gateway::cli::{Cli, Command};
use capture_gateway::logging;
use clap::Parser;

fn main() -> Result<()> {
    let Command::Run(run) = Cli::parse().command;
    logging::start(run.log_format, run.log_level);
    // One thread: the work is waiting for the API server, and a list of records needs no more than one core.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let done = runtime.block_on(capture_gateway::run(run)).context("gateway");
    // A request that nobody answers must not keep the process.
    runtime.shutdown_background();
    done
}
