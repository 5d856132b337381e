//! From the file's keys to the configuration in force.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;

use capture_api::strict::FieldError;
use capture_api::{Amount, Caps, CapsSpec, Defaults, GoDuration, MAX_SNAP_LENGTH, MIN_FILE_BYTES, Rotation};

use super::file::{ConfigFile, DefaultsFile};
use super::lines::Lines;
use super::{Config, ConfigError};

/// Reads values and says where they stand when they are bad.
pub(super) struct Reader<'a> {
    path: &'a Path,
    lines: Lines,
}

impl<'a> Reader<'a> {
    pub(super) fn new(path: &'a Path, lines: Lines) -> Self {
        Self { path, lines }
    }

    /// The configuration that the file's keys make.
    pub(super) fn config(&self, file: ConfigFile) -> Result<Config, ConfigError> {
        let default = Config::default();
        let log = file.log.unwrap_or_default();
        let caps_of_file = CapsSpec::from(file.caps.unwrap_or_default());
        let caps = Caps::resolve([&caps_of_file], &default.caps).map_err(|refusal| {
            let key = refusal.message.split(':').next().unwrap_or_default().to_owned();
            self.key(&key, &refusal.message)
        })?;
        if let Some(cap) = caps_of_file.nothing() {
            let key = if cap == "captures" { "capturesPerNamespace" } else { cap };
            return Err(self.bad(&format!("caps.{key}"), "0 would allow no capture"));
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
            quota_per_namespace: self.number(
                "quotaPerNamespace",
                file.quota_per_namespace.as_ref(),
                1..=u64::MAX,
            )?,
            max_disk_percent: percent.map_or(default.max_disk_percent, |percent| percent as u8),
            cni_cache_dirs: file.cni_cache_dirs.unwrap_or(default.cni_cache_dirs),
            provisional_bytes: self
                .number("provisionalBytes", file.provisional_bytes.as_ref(), 0..=1 << 40)?
                .unwrap_or(default.provisional_bytes),
            max_manifests: manifests.map_or(default.max_manifests, |manifests| manifests as usize),
            http_address: self.address("httpAddress", file.http_address.as_deref())?,
            health_address: self.address("healthAddress", file.health_address.as_deref())?,
            api_server_patience: self
                .duration("apiServerPatience", file.api_server_patience.as_deref(), 1)?
                .unwrap_or(default.api_server_patience),
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

    fn address(&self, key: &str, text: Option<&str>) -> Result<Option<SocketAddr>, ConfigError> {
        let Some(text) = text else { return Ok(None) };
        let wrong = |_| self.bad(key, format!("{text:?} is no address with a port, such as 127.0.0.1:9471"));
        text.parse().map(Some).map_err(wrong)
    }

    fn bad(&self, key: &str, problem: impl Display) -> ConfigError {
        self.key(key, &format!("{key}: {problem}."))
    }

    /// A key that the file should not have, or not so.
    pub(super) fn field(&self, error: &FieldError) -> ConfigError {
        self.key(&error.path, &error.to_string().replace("there is no field", "there is no key"))
    }

    fn key(&self, key: &str, message: &str) -> ConfigError {
        let line = self.lines.of(key).unwrap_or(1);
        ConfigError::Key { path: self.path.to_owned(), line, message: message.to_owned() }
    }
}
