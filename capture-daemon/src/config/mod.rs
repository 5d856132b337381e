//! The node's configuration: a YAML file, what the command line says instead, and defaults that protect.

mod file;
mod lines;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use capture_api::strict::{self, FieldError};
use capture_api::{Amount, Caps, Defaults, GoDuration, MAX_SNAP_LENGTH, MIN_FILE_BYTES, Rotation};
use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Deserialize;

use self::file::{ConfigFile, DefaultsFile};
use self::lines::Lines;
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
    /// How full the disk may become, in percent.
    pub max_disk_percent: u8,
    /// The most manifest files that are looked at.
    pub max_manifests: usize,
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
            node_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            attach_mode: AttachModeChoice::Auto,
            memory_budget: 256 << 20,
            writers: 2,
            write_bandwidth: None,
            quota: None,
            max_disk_percent: 75,
            max_manifests: 4096,
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
        let reader = Reader { path, lines };
        strict::check::<ConfigFile>(&value, "").map_err(|error| reader.field(&error))?;
        let file: ConfigFile = serde_saphyr::from_str_with_options(text, options).map_err(yaml)?;
        reader.config(file)
    }
}

fn is_node_name(name: &str) -> bool {
    let edges = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && !name.ends_with(['-', '.']);
    edges && name.len() <= 253 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Reads values and says where they stand when they are bad.
struct Reader<'a> {
    path: &'a Path,
    lines: Lines,
}

impl Reader<'_> {
    fn config(&self, file: ConfigFile) -> Result<Config, ConfigError> {
        let default = Config::default();
        let log = file.log.unwrap_or_default();
        let caps_of_file = file.caps.unwrap_or_default().into();
        let caps = Caps::resolve([&caps_of_file], &default.caps).map_err(|refusal| {
            let key = refusal.message.split(':').next().unwrap_or_default().to_owned();
            self.key(&key, &refusal.message)
        })?;
        for (key, zero) in [
            ("caps.duration", caps.duration.0.is_zero()),
            ("caps.bytes", caps.bytes == 0),
            ("caps.packets", caps.packets == Some(0)),
            ("caps.packetsPerSecond", caps.packets_per_second == Some(0)),
            ("caps.bytesPerSecond", caps.bytes_per_second == Some(0)),
            ("caps.captures", caps.captures == 0),
        ] {
            if zero {
                return Err(
                    self.bad(&key.replace("captures", "capturesPerNamespace"), "0 would allow no capture")
                );
            }
        }
        let percent = self.number("maxDiskPercent", file.max_disk_percent.as_ref(), 1..=100)?;
        let writers = self.number("writers", file.writers.as_ref(), 1..=16)?;
        let manifests = self.number("maxManifests", file.max_manifests.as_ref(), 1..=1_000_000)?;
        Ok(Config {
            data_dir: file.data_dir.unwrap_or(default.data_dir),
            node_name: file.node_name.unwrap_or(default.node_name),
            attach_mode: file.attach_mode.unwrap_or_default(),
            memory_budget: self
                .number("memoryBudget", file.memory_budget.as_ref(), 16 << 20..=1 << 40)?
                .unwrap_or(default.memory_budget),
            writers: writers.map_or(default.writers, |writers| writers as usize),
            write_bandwidth: self.number("writeBandwidth", file.write_bandwidth.as_ref(), 1..=u64::MAX)?,
            quota: self.number("quota", file.quota.as_ref(), 1..=u64::MAX)?,
            max_disk_percent: percent.map_or(default.max_disk_percent, |percent| percent as u8),
            max_manifests: manifests.map_or(default.max_manifests, |manifests| manifests as usize),
            defaults: self.defaults(file.defaults.unwrap_or_default(), &caps)?,
            caps,
            log_format: log.format.unwrap_or_default(),
            log_level: log.level.unwrap_or_default(),
        })
    }

    fn defaults(&self, file: DefaultsFile, caps: &Caps) -> Result<Defaults, ConfigError> {
        let default = Defaults::default();
        let largest = u64::from(MAX_SNAP_LENGTH);
        let any = 1..=u64::MAX;
        let duration = self.duration("defaults.duration", file.duration.as_deref(), 1)?;
        let bytes = self.number("defaults.bytes", file.bytes.as_ref(), any.clone())?;
        let packets = self.number("defaults.packets", file.packets.as_ref(), any.clone())?;
        let snap_length = self.number("defaults.snapLength", file.snap_length.as_ref(), 1..=largest)?;
        let retention = self.duration("defaults.retention", file.retention.as_deref(), 0)?;
        // A default that no capture would ever get is a mistake that is better told now.
        self.within("duration", duration, Some(caps.duration))?;
        self.within("bytes", bytes, Some(caps.bytes))?;
        self.within("packets", packets, caps.packets)?;
        self.within("snapLength", snap_length, Some(u64::from(caps.snap_length)))?;
        self.within("retention", retention, Some(caps.retention))?;

        let rotation = file.rotation.unwrap_or_default();
        let least = MIN_FILE_BYTES..=u64::MAX;
        let file_bytes = self.number("defaults.rotation.fileBytes", rotation.file_bytes.as_ref(), least)?;
        let files =
            self.number("defaults.rotation.files", rotation.files.as_ref(), 1..=u64::from(u32::MAX))?;
        let interval = self.duration("defaults.rotation.interval", rotation.interval.as_deref(), 1)?;
        Ok(Defaults {
            duration: duration.unwrap_or(default.duration),
            bytes: bytes.unwrap_or(default.bytes),
            packets,
            snap_length: snap_length.map_or(default.snap_length, |length| length as u32),
            retention: retention.unwrap_or(default.retention),
            rotation: Rotation {
                file_bytes: file_bytes.unwrap_or(default.rotation.file_bytes),
                files: files.map(|files| files as u32),
                interval,
            },
        })
    }

    fn within<T: Ord + Display>(
        &self,
        name: &str,
        value: Option<T>,
        cap: Option<T>,
    ) -> Result<(), ConfigError> {
        match (value, cap) {
            (Some(value), Some(cap)) if value > cap => {
                let problem = format!("{value} is more than caps.{name} allows ({cap}); raise the cap, too");
                Err(self.bad(&format!("defaults.{name}"), problem))
            }
            _ => Ok(()),
        }
    }

    fn number(
        &self,
        key: &str,
        amount: Option<&Amount>,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some(amount) = amount else { return Ok(None) };
        let number = amount.value().map_err(|error| self.bad(key, error))?;
        if range.contains(&number) {
            return Ok(Some(number));
        }
        let (least, most) = range.into_inner();
        let text = amount.as_str();
        Err(match number < least {
            true => self.bad(key, format!("{text} is too little; write at least {least}")),
            false => self.bad(key, format!("{text} is too much; write at most {most}")),
        })
    }

    fn duration(&self, key: &str, text: Option<&str>, least: u64) -> Result<Option<GoDuration>, ConfigError> {
        let Some(text) = text else { return Ok(None) };
        let duration = GoDuration::from_str(text).map_err(|error| self.bad(key, error))?;
        if duration < GoDuration::from_secs(least) {
            return Err(self.bad(key, format!("{text} is too short; write at least {least}s")));
        }
        Ok(Some(duration))
    }

    fn bad(&self, key: &str, problem: impl Display) -> ConfigError {
        self.key(key, &format!("{key}: {problem}."))
    }

    fn field(&self, error: &FieldError) -> ConfigError {
        self.key(&error.path, &error.to_string().replace("there is no field", "there is no key"))
    }

    fn key(&self, key: &str, message: &str) -> ConfigError {
        let line = self.lines.of(key).unwrap_or(1);
        ConfigError::Key { path: self.path.to_owned(), line, message: message.to_owned() }
    }
}
