//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{AttachModeChoice, LogFormat, LogLevel, Overrides};

/// podtap's node agent: captures the packets of single pods into pcapng files.
#[derive(Debug, Parser)]
#[command(name = "capture-daemon", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Captures the pods that are asked for, until it is told to stop (SIGTERM or Ctrl-C).
    #[command(after_help = RUN_EXAMPLE)]
    Run(Run),
    /// Tries out filters without capturing anything.
    #[command(subcommand)]
    Filter(FilterCommand),
    /// Compiles the filter on standard input. The agent starts this for itself.
    #[command(hide = true)]
    CompileFilter,
}

const RUN_EXAMPLE: &str = "\
Examples:
  capture-daemon run --kubernetes --config /etc/podtap/agent.yaml
  capture-daemon run --pods /etc/podtap/pods --data-dir /var/lib/podtap

On Kubernetes the API server is found by the pod's service account, or by
KUBECONFIG, and this node's name is in NODE_NAME unless it is configured.

With a directory a pod is captured when its manifest has the label podtap.dev/capture: \"true\",
or when a PacketCapture in the same directory selects it. The annotation
podtap.dev/interface (or podtap.dev/netns) says where its traffic passes.
Files appear as NAMESPACE/RECORD/*.pcapng in the data directory, and how each
run stands in .status/NAMESPACE/RECORD.json.";

/// `run`
#[derive(Debug, Args)]
pub struct Run {
    /// Pods and PacketCaptures of the Kubernetes API server, of this node.
    #[arg(long, help_heading = "Where", required_unless_present = "pods", conflicts_with = "pods")]
    pub kubernetes: bool,

    /// Directory of Pod and PacketCapture manifests (YAML or JSON). It is watched.
    #[arg(long, value_name = "DIR", help_heading = "Where")]
    pub pods: Option<PathBuf>,

    /// Directory for captures. [default: /var/lib/podtap]
    #[arg(long, value_name = "DIR", help_heading = "Where")]
    pub data_dir: Option<PathBuf>,

    /// Configuration file (YAML). Other options win over it.
    #[arg(long, value_name = "FILE", help_heading = "How")]
    pub config: Option<PathBuf>,

    /// How to tap interfaces: tcx needs Linux 6.6, auto tries. [default: auto]
    #[arg(long, value_name = "MODE", help_heading = "How", ignore_case = true)]
    pub attach_mode: Option<AttachModeChoice>,

    /// This node's name in records and files. [default: NODE_NAME, else the host's name]
    #[arg(long, value_name = "NAME", help_heading = "How")]
    pub node_name: Option<String>,

    /// Shape of the log; auto is human on a terminal, json otherwise. [default: auto]
    #[arg(long, value_name = "FORMAT", help_heading = "Log (on standard error)", ignore_case = true)]
    pub log_format: Option<LogFormat>,

    /// How much to log. [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Log (on standard error)", ignore_case = true)]
    pub log_level: Option<LogLevel>,
}

impl Run {
    /// What it says instead of the configuration file.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides {
            data_dir: self.data_dir.clone(),
            node_name: self.node_name.clone(),
            attach_mode: self.attach_mode,
            log_format: self.log_format,
            log_level: self.log_level,
        }
    }
}

/// `filter`
#[derive(Debug, Subcommand)]
pub enum FilterCommand {
    /// Shows what a filter becomes: libpcap's classic BPF, and the eBPF that the kernel runs.
    Explain {
        /// The filter, in pcap-filter(7) syntax, such as "tcp port 80".
        #[arg(value_name = "EXPR")]
        expression: String,
    },
    /// Runs a filter in the kernel over the packets of a file and counts those that match.
    Test {
        /// The filter, in pcap-filter(7) syntax.
        #[arg(value_name = "EXPR")]
        expression: String,
        /// A pcap or pcapng file of Ethernet packets.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_become_overrides() {
        let line = "capture-daemon run --pods p --data-dir d --attach-mode Tcx --node-name n --log-format JSON \
                    --log-level warn --config c";
        let Command::Run(run) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!("not run");
        };
        assert_eq!(
            (
                run.pods.as_ref().and_then(|path| path.to_str()),
                run.config.as_ref().and_then(|path| path.to_str())
            ),
            (Some("p"), Some("c"))
        );
        let overrides = run.overrides();
        assert_eq!(overrides.data_dir, Some("d".into()));
        assert_eq!(overrides.attach_mode, Some(AttachModeChoice::Tcx));
        assert_eq!(overrides.node_name.as_deref(), Some("n"));
        assert_eq!(
            (overrides.log_format, overrides.log_level),
            (Some(LogFormat::Json), Some(LogLevel::Warn))
        );
    }

    #[test]
    fn run_needs_one_place_where_requests_come_from_and_help_names_the_defaults() {
        let parse = |line: &str| Cli::try_parse_from(line.split_whitespace());
        let neither = parse("capture-daemon run").unwrap_err().to_string();
        assert!(neither.contains("--kubernetes"), "{neither}");
        let both = parse("capture-daemon run --kubernetes --pods d").unwrap_err().to_string();
        assert!(both.contains("--pods <DIR>"), "{both}");
        let Command::Run(run) = parse("capture-daemon run --kubernetes").unwrap().command else {
            panic!("not run");
        };
        assert!(run.kubernetes && run.pods.is_none());
        let help = Cli::try_parse_from(["capture-daemon", "run", "--help"]).unwrap_err().to_string();
        let defaults = crate::config::Config::default();
        assert!(help.contains(&format!("[default: {}]", defaults.data_dir.display())), "{help}");
        for option in [
            "--kubernetes",
            "--pods",
            "--data-dir",
            "--config",
            "--attach-mode",
            "--node-name",
            "--log-format",
            "--log-level",
        ] {
            assert!(help.contains(option), "{help}");
        }
        assert!(!Cli::command().render_help().to_string().contains("compile-filter"));
    }

    #[test]
    fn a_filter_that_looks_like_an_option_stays_a_filter() {
        let line = ["capture-daemon", "filter", "test", "--", "-x", "file"];
        let Command::Filter(FilterCommand::Test { expression, .. }) =
            Cli::try_parse_from(line).unwrap().command
        else {
            panic!("not filter test");
        };
        assert_eq!(expression, "-x");
    }
}
