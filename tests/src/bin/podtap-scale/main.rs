//! How podtap bears a large cluster, on a real API server and with objects of nodes that do not exist.
//!
//! Prints figures; they are what the machine did that it ran on.

mod agent;
mod elsewhere;
mod status;
mod writes;

use clap::{Parser, Subcommand};

/// Makes a cluster look large, and says how podtap bears it.
#[derive(Debug, Parser)]
#[command(name = "podtap-scale", max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One PacketCapture in which many nodes take part: sizes of objects, the gateway's memory and its writes.
    Status(status::Status),
    /// An agent's memory: with pods on its node, and with many more and many PacketCaptures that do not concern it.
    Elsewhere(elsewhere::Elsewhere),
    /// What an agent writes to the API server while many captures run on its node.
    Writes(writes::Writes),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Status(status) => status.run(),
        Command::Elsewhere(elsewhere) => elsewhere.run(),
        Command::Writes(writes) => writes.run(),
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
