//! How podtap bears a large cluster, on a real API server and with objects of nodes that do not exist.
//!
//! Prints figures; they are what the machine did that it ran on.

mod elsewhere;
mod status;

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
    /// Pods and PacketCaptures that concern no node of the cluster, kept until Enter is pressed: for measuring agents.
    Elsewhere(elsewhere::Elsewhere),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Status(status) => status.run(),
        Command::Elsewhere(elsewhere) => elsewhere.run(),
    }
}
