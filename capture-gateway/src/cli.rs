//! The command line.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use capture_api::GoDuration;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// podtap's gateway: tells how PacketCaptures stand, and looks after the records of nodes that are gone.
#[derive(Debug, Parser)]
#[command(name = "capture-gateway", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs until it is told to stop (SIGTERM or Ctrl-C). Of several, one holds the lease and writes.
    Run(Run),
}

/// `run`
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9472")]
    pub http_address: SocketAddr,

    /// The ConfigMap that agents have their configuration from: what no policy says, it does.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        default_value = "podtap-system/podtap-agent",
        value_parser = namespaced
    )]
    pub agent_config: (String, String),

    /// Namespace of the lease `podtap-gateway`, and of the ConfigMap `podtap-default-policy`.
    #[arg(long, value_name = "NAMESPACE", default_value = "podtap-gateway", help_heading = "Lease")]
    pub lease_namespace: String,

    /// Name of this gateway in the lease. [default: the host's name, which is the pod's]
    #[arg(long, value_name = "NAME", env = "POD_NAME", help_heading = "Lease")]
    pub identity: Option<String>,

    /// How long a lease holds that is not renewed. Another gateway takes over after this time.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = lease_duration, help_heading = "Lease")]
    pub lease_duration: Duration,

    /// How long a node must be gone before its unfinished runs count as failed.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration, help_heading = "Records")]
    pub node_gone_after: Duration,

    /// The most writes per second to the API server, the lease's own not counted.
    #[arg(long, value_name = "NUMBER", default_value = "20", help_heading = "Records")]
    pub writes_per_second: NonZeroU32,

    /// Shape of the log; auto is human on a terminal, json otherwise.
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "auto",
        ignore_case = true,
        help_heading = "Log (on standard error)"
    )]
    pub log_format: LogFormat,

    /// How much to log.
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        ignore_case = true,
        help_heading = "Log (on standard error)"
    )]
    pub log_level: LogLevel,
}

/// Shape of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What went wrong.
    Error,
    /// And what may go wrong.
    Warn,
    /// And what happens.
    Info,
    /// And why.
    Debug,
    /// Everything.
    Trace,
}

fn namespaced(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("write NAMESPACE/NAME".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<GoDuration>().map(|duration| duration.0).map_err(|error| error.to_string())
}

/// Kubernetes keeps it in whole seconds, and below three of them a slow answer would cost the lease.
fn lease_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration.subsec_nanos() != 0 || !(3..=3600).contains(&duration.as_secs()) {
        return Err("write whole seconds from 3s to 1h".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(line: &str) -> Result<Run, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|Cli { command: Command::Run(run) }| run)
    }

    #[test]
    fn the_command_line_holds_together_and_needs_nothing() {
        Cli::command().debug_assert();
        let run = run("capture-gateway run").unwrap();
        assert_eq!(run.http_address, SocketAddr::from(([0, 0, 0, 0], 9472)));
        assert_eq!(run.lease_namespace, "podtap-gateway");
        assert_eq!(run.agent_config, ("podtap-system".to_owned(), "podtap-agent".to_owned()));
        assert_eq!(
            (run.node_gone_after, run.lease_duration),
            (Duration::from_secs(300), Duration::from_secs(15))
        );
    }

    #[test]
    fn durations_are_written_as_everywhere_and_leases_in_whole_seconds() {
        assert_eq!(
            run("capture-gateway run --node-gone-after 1m30s").unwrap().node_gone_after,
            Duration::from_secs(90)
        );
        for bad in ["1500ms", "2s", "2h", "1d"] {
            assert!(run(&format!("capture-gateway run --lease-duration {bad}")).is_err(), "{bad}");
        }
        assert!(run("capture-gateway run --writes-per-second 0").is_err());
        assert!(run("capture-gateway run --agent-config podtap-agent").is_err());
    }
}
