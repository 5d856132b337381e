//! The node's configuration: a YAML file, what the command line says instead, and defaults that protect.

mod file;
mod lines;
mod read;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use capture_api::{Caps, Defaults, GoDuration, strict};
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Deserialize;

use self::file::ConfigFile;
use self::lines::Lines;
use self::read::Reader;
use crate::datapath::AttachMode;
use crate::requests::manifests;

/// The configuration in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where captures are kept.
    pub data_dir: PathBuf,
    /// The node's name.
    pub node_name: String,
    /// How interfaces are tapped.
    pub attach_mode: AttachModeChoice,
    /// Bytes for rings and buffers together.
    pub memory_budget: u64,
    /// Threads that write files.
    pub writers: usize,
    /// The most bytes per second that are written.
    pub write_bandwidth: Option<u64>,
    /// The most bytes in the data directory.
    pub quota: Option<u64>,
    /// The most bytes of one namespace's captures.
    pub quota_per_namespace: Option<u64>,
    /// How full the disk may become, in percent.
    pub max_disk_percent: u8,
    /// Directories of CNIs' results.
    pub cni_cache_dirs: Vec<PathBuf>,
    /// Bytes for packets of interfaces that are nobody's yet.
    pub provisional_bytes: u64,
    /// The most manifest files that are looked at.
    pub max_manifests: usize,
    /// Where metrics and health are served.
    pub http_address: Option<SocketAddr>,
    /// Where health alone is served.
    pub health_address: Option<SocketAddr>,
    /// How long captures go on without the API server.
    pub api_server_patience: GoDuration,
    /// For what a request does not name.
    pub defaults: Defaults,
    /// For what it asks too much of.
    pub caps: Caps,
    /// Shape of the log.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: LogLevel,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/podtap"),
            node_name: node_name(),
            attach_mode: AttachModeChoice::Auto,
            memory_budget: 256 << 20,
            writers: 2,
            write_bandwidth: None,
            quota: None,
            quota_per_namespace: None,
            max_disk_percent: 75,
            cni_cache_dirs: vec![PathBuf::from("/var/lib/cni/results")],
            provisional_bytes: 32 << 20,
            max_manifests: 4096,
            http_address: None,
            health_address: None,
            api_server_patience: GoDuration::from_secs(600),
            defaults: Defaults::default(),
            caps: Caps::default(),
            log_format: LogFormat::Auto,
            log_level: LogLevel::Info,
        }
    }
}

/// How interfaces are tapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, ValueEnum)]
pub enum AttachModeChoice {
    /// What works, found by trying: tcx, else a socket.
    #[default]
    Auto,
    /// tcx links (Linux 6.6 and later).
    Tcx,
    /// Packet sockets (any kernel).
    Socket,
}

impl AttachModeChoice {
    /// The mode that is forced, if one is.
    #[must_use]
    pub const fn forced(self) -> Option<AttachMode> {
        match self {
            Self::Auto => None,
            Self::Tcx => Some(AttachMode::Tcx),
            Self::Socket => Some(AttachMode::Socket),
        }
    }
}

/// Shape of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// Lines for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// What is logged: this and all that is worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What needs a look.
    Warn,
    /// What happens.
    #[default]
    Info,
    /// How it happens.
    Debug,
    /// Everything.
    Trace,
}

/// What the command line says instead of the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `--data-dir`
    pub data_dir: Option<PathBuf>,
    /// `--node-name`
    pub node_name: Option<String>,
    /// `--attach-mode`
    pub attach_mode: Option<AttachModeChoice>,
    /// `--log-format`
    pub log_format: Option<LogFormat>,
    /// `--log-level`
    pub log_level: Option<LogLevel>,
}

/// Why there is no configuration. Messages begin with the file and, where there is one, the line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no YAML.
    #[error("{path}: {message}")]
    Yaml {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        message: String,
    },
    /// A key or a value is wrong.
    #[error("{path}:{line}: {message}")]
    Key {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong, with the key, and what to write.
        message: String,
    },
    /// The command line, or what the host says of itself.
    #[error("{0}")]
    Value(String),
}

impl Config {
    /// The configuration of `path`, if there is one, with `overrides` on top and defaults below.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown key or a bad value.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, ConfigError> {
        let mut config = match path {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                Self::parse(path, &text)?
            }
            None => Self::default(),
        };
        let Overrides { data_dir, node_name, attach_mode, log_format, log_level } = overrides;
        config.data_dir = data_dir.unwrap_or(config.data_dir);
        config.node_name = node_name.unwrap_or(config.node_name);
        config.attach_mode = attach_mode.unwrap_or(config.attach_mode);
        config.log_format = log_format.unwrap_or(config.log_format);
        config.log_level = log_level.unwrap_or(config.log_level);
        if !is_node_name(&config.node_name) {
            return Err(ConfigError::Value(format!(
                "{:?} cannot be a node's name; give --node-name, at most 253 letters, digits, - and .",
                config.node_name
            )));
        }
        Ok(config)
    }

    /// What the manifest directory needs of it.
    #[must_use]
    pub fn requests(&self) -> manifests::Options {
        manifests::Options {
            defaults: self.defaults.clone(),
            caps: self.caps.clone(),
            max_files: self.max_manifests,
            ..manifests::Options::default()
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let yaml = |error: serde_saphyr::Error| ConfigError::Yaml {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
        let value: serde_json::Value =
            serde_saphyr::from_str_with_options(text, options.clone()).map_err(yaml)?;
        if value.is_null() {
            return Ok(Self::default());
        }
        let lines: Lines = serde_saphyr::from_str_with_options(text, options.clone()).map_err(yaml)?;
        let reader = Reader::new(path, lines);
        strict::check::<ConfigFile>(&value, "").map_err(|error| reader.field(&error))?;
        let file: ConfigFile = serde_saphyr::from_str_with_options(text, options).map_err(yaml)?;
        reader.config(file)
    }
}

/// What Kubernetes calls this node, where a DaemonSet says so; else the host's name.
fn node_name() -> String {
    std::env::var("NODE_NAME")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

fn is_node_name(name: &str) -> bool {
    let edges = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.ends_with(['-', '.']);
    edges && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}
