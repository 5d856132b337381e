//! From what a user wrote to the settings in force: defaults fill, caps clip, and what makes no sense is refused.

use std::collections::BTreeMap;
use std::fmt::Display;

use jiff::Timestamp;

use crate::settings::later;
use crate::{
    Amount, Caps, Defaults, GoDuration, Limits, LimitsSpec, MAX_SNAP_LENGTH, Output, PacketCaptureSpec, Rate,
    RateLimitSpec, Refusal, Rotation, RotationSpec, Settings, Window, keys, reasons, strict,
};

/// The least size of a file that rotation may ask for: one packet of the largest size and the file's own blocks.
pub const MIN_FILE_BYTES: u64 = 128 << 10;
/// The most bytes of a filter's text.
const MAX_FILTER: usize = 4096;

/// The settings of a PacketCapture that was accepted at `accepted`, and what was clipped, one sentence each.
///
/// # Errors
/// A value that cannot be read or makes no sense; the message names the field and says what to write.
pub fn from_spec(
    spec: &PacketCaptureSpec,
    accepted: Timestamp,
    defaults: &Defaults,
    caps: &Caps,
) -> Result<(Settings, Vec<String>), Refusal> {
    Resolver { names: Names::Spec, defaults, caps, notes: Vec::new() }.resolve(spec, accepted)
}

/// The settings of a pod captured by its label, from its annotations. Annotations of others are not looked at.
///
/// # Errors
/// An unknown annotation of podtap's, or a value that cannot be read or makes no sense.
pub fn from_annotations(
    annotations: &BTreeMap<String, String>,
    accepted: Timestamp,
    defaults: &Defaults,
    caps: &Caps,
) -> Result<(Settings, Vec<String>), Refusal> {
    let known = || keys::SETTINGS.into_iter().chain(keys::PLACES);
    for key in annotations.keys() {
        let Some(ours) = key.strip_prefix(keys::PREFIX) else { continue };
        if !known().any(|known| known == key) {
            let short = |key: &'static str| &key[keys::PREFIX.len()..];
            let hint = match strict::nearest(ours, known().map(short)) {
                Some(near) => format!("did you mean {}{near}?", keys::PREFIX),
                None => format!("known are {}; anything more is a PacketCapture.", keys::SETTINGS.join(", ")),
            };
            return Err(Refusal::new(
                reasons::UNKNOWN_FIELD,
                format!("There is no annotation {key}: {hint}"),
            ));
        }
    }
    let text = |key: &str| annotations.get(key).map(String::as_str);
    let amount = |key: &str| text(key).map(Amount::from);
    let spec = PacketCaptureSpec {
        filter: text(keys::FILTER).map(str::to_owned),
        duration: text(keys::DURATION).map(str::to_owned),
        snap_length: amount(keys::SNAP_LENGTH),
        limits: Some(LimitsSpec { packets: amount(keys::MAX_PACKETS), bytes: amount(keys::MAX_BYTES) }),
        ..PacketCaptureSpec::default()
    };
    Resolver { names: Names::Annotations, defaults, caps, notes: Vec::new() }.resolve(&spec, accepted)
}

/// How fields are called where the user wrote them.
#[derive(Clone, Copy)]
enum Names {
    Spec,
    Annotations,
}

impl Names {
    fn of(self, field: &str) -> String {
        let annotation = match field {
            "filter" => keys::FILTER,
            "duration" => keys::DURATION,
            "snapLength" => keys::SNAP_LENGTH,
            "limits.packets" => keys::MAX_PACKETS,
            "limits.bytes" => keys::MAX_BYTES,
            _ => "",
        };
        match self {
            Self::Annotations if !annotation.is_empty() => format!("annotation {annotation}"),
            _ => format!("spec.{field}"),
        }
    }
}

/// The last part of a field's path, as notes call it: "duration 2h clipped to 10m".
fn short(field: &str) -> &str {
    match field {
        "limits.packets" => "packet limit",
        "limits.bytes" => "byte limit",
        "snapLength" => "snap length",
        "rateLimit.packetsPerSecond" => "packets per second",
        "rateLimit.bytesPerSecond" => "bytes per second",
        other => other,
    }
}

struct Resolver<'a> {
    names: Names,
    defaults: &'a Defaults,
    caps: &'a Caps,
    notes: Vec<String>,
}

impl Resolver<'_> {
    fn resolve(
        mut self,
        spec: &PacketCaptureSpec,
        accepted: Timestamp,
    ) -> Result<(Settings, Vec<String>), Refusal> {
        let settings = Settings {
            filter: self.filter(spec.filter.as_deref())?,
            direction: spec.direction,
            interface: self.interface(spec.interface.as_deref())?,
            snap_length: self.snap_length(spec.snap_length.as_ref())?,
            headers_only: self.headers_only(spec.headers_only),
            sample: self.sample(spec.sample.as_ref())?,
            rate: self.rate(spec.rate_limit.as_ref())?,
            limits: self.limits(spec.limits.as_ref())?,
            rotation: self.rotation(spec.rotation.as_ref())?,
            start_time: self.time("startTime", spec.start_time.as_deref())?,
            window: self.window(spec, accepted)?,
            state: spec.state,
            retention: self.retention(spec.retention.as_deref())?,
            output: self.output(spec.output.as_ref().and_then(|output| output.object_store.as_deref()))?,
        };
        Ok((settings, self.notes))
    }

    fn filter(&self, text: Option<&str>) -> Result<String, Refusal> {
        let text = text.unwrap_or_default().trim();
        let name = self.names.of("filter");
        if text.len() > MAX_FILTER {
            return Err(Refusal::new(
                reasons::INVALID_FILTER,
                format!(
                    "{name}: {} bytes are too long for a filter; write at most {MAX_FILTER}.",
                    text.len()
                ),
            ));
        }
        if text.chars().any(|c| c.is_control() && !c.is_ascii_whitespace()) {
            return Err(Refusal::new(
                reasons::INVALID_FILTER,
                format!("{name}: the filter holds control characters; write it in plain text."),
            ));
        }
        Ok(text.to_owned())
    }

    fn interface(&self, name: Option<&str>) -> Result<Option<String>, Refusal> {
        // The kernel's own rule (`dev_valid_name`, net/core/dev.c).
        let valid = |name: &str| {
            (1..16).contains(&name.len())
                && !matches!(name, "." | "..")
                && !name.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
        };
        match name {
            Some(name) if !valid(name) => Err(self.bad(
                "interface",
                format!("{name:?} is no interface's name; write one that `ip link` shows inside the pod"),
            )),
            name => Ok(name.map(str::to_owned)),
        }
    }

    fn snap_length(&mut self, asked: Option<&Amount>) -> Result<u32, Refusal> {
        let field = "snapLength";
        let Some(amount) = asked else { return Ok(self.defaults.snap_length.min(self.caps.snap_length)) };
        let length = self.at_least_one(field, amount, "leave it out to keep whole packets")?;
        let largest = u64::from(MAX_SNAP_LENGTH);
        let cap = u64::from(self.caps.snap_length);
        if length > cap && cap < largest {
            self.clipped(field, amount.as_str(), cap);
        } else if length > largest {
            self.notes.push(format!(
                "snap length {} clipped to {largest}, the largest packet there is",
                amount.as_str()
            ));
        }
        // At most MAX_SNAP_LENGTH, which fits.
        Ok(length.min(cap).min(largest) as u32)
    }

    fn headers_only(&mut self, asked: bool) -> bool {
        if self.caps.headers_only && !asked {
            self.notes.push(format!("only headers are kept, as the {}'s caps say", self.caps.whose));
        }
        asked || self.caps.headers_only
    }

    fn sample(&self, asked: Option<&Amount>) -> Result<u32, Refusal> {
        let Some(amount) = asked else { return Ok(1) };
        let sample = self.at_least_one("sample", amount, "1 keeps every packet")?;
        u32::try_from(sample).map_err(|_| self.bad("sample", format!("{sample} is too large")))
    }

    fn rate(&mut self, asked: Option<&RateLimitSpec>) -> Result<Rate, Refusal> {
        let packets = asked.and_then(|rate| rate.packets_per_second.as_ref());
        let bytes = asked.and_then(|rate| rate.bytes_per_second.as_ref());
        let hint = "leave it out for no limit, or set spec.state to Paused to capture nothing";
        let caps = self.caps;
        Ok(Rate {
            packets_per_second: self.limit(
                "rateLimit.packetsPerSecond",
                packets,
                caps.packets_per_second,
                hint,
            )?,
            bytes_per_second: self.limit("rateLimit.bytesPerSecond", bytes, caps.bytes_per_second, hint)?,
        })
    }

    fn limits(&mut self, asked: Option<&LimitsSpec>) -> Result<Limits, Refusal> {
        let packets = asked.and_then(|limits| limits.packets.as_ref());
        let bytes = asked.and_then(|limits| limits.bytes.as_ref());
        let hint = "leave it out for the default";
        let caps = self.caps;
        let packets = match packets {
            None => self.defaults.packets.into_iter().chain(caps.packets).min(),
            asked => self.limit("limits.packets", asked, caps.packets, hint)?,
        };
        let bytes = self.limit("limits.bytes", bytes, Some(caps.bytes), hint)?;
        let bytes = if asked.is_some_and(|limits| limits.bytes.is_some()) {
            bytes
        } else {
            Some(self.defaults.bytes.min(caps.bytes))
        };
        Ok(Limits { packets, bytes: bytes.unwrap_or(caps.bytes) })
    }

    fn rotation(&mut self, asked: Option<&RotationSpec>) -> Result<Rotation, Refusal> {
        let defaults = self.defaults.rotation;
        let Some(asked) = asked else { return Ok(defaults) };
        let file_bytes = match &asked.file_bytes {
            None => defaults.file_bytes,
            Some(amount) => {
                let bytes =
                    self.at_least_one("rotation.fileBytes", amount, "leave it out for the default")?;
                if bytes < MIN_FILE_BYTES {
                    let least = MIN_FILE_BYTES >> 10;
                    self.notes.push(format!(
                        "file size {} raised to {least}Ki, the least there is",
                        amount.as_str()
                    ));
                }
                bytes.max(MIN_FILE_BYTES)
            }
        };
        let files = match &asked.files {
            None => defaults.files,
            Some(amount) => {
                let files = self.at_least_one("rotation.files", amount, "leave it out to keep all files")?;
                Some(u32::try_from(files).unwrap_or(u32::MAX))
            }
        };
        let interval = match &asked.interval {
            None => defaults.interval,
            Some(text) => {
                let interval = self.duration("rotation.interval", text)?;
                if interval < GoDuration::from_secs(1) {
                    let problem = format!("{interval} is too short; write at least 1s");
                    return Err(self.bad("rotation.interval", problem));
                }
                Some(interval)
            }
        };
        Ok(Rotation { file_bytes, files, interval })
    }

    fn window(&mut self, spec: &PacketCaptureSpec, accepted: Timestamp) -> Result<Window, Refusal> {
        let start = self.time("startTime", spec.start_time.as_deref())?;
        let end = self.time("endTime", spec.end_time.as_deref())?;
        let cap = self.caps.duration;
        match (&spec.duration, end) {
            (Some(_), Some(_)) => Err(Refusal::new(
                reasons::INVALID_WINDOW,
                "spec.duration and spec.endTime are both set; leave one of them out.",
            )),
            (None, None) => Ok(Window::Duration(self.defaults.duration.min(cap))),
            (Some(text), None) => {
                let duration = self.duration("duration", text)?;
                if duration.0.is_zero() {
                    return Err(
                        self.bad("duration", "a capture of no time keeps nothing; write 10m, for instance")
                    );
                }
                if duration > cap {
                    self.clipped("duration", text, cap);
                }
                Ok(Window::Duration(duration.min(cap)))
            }
            (None, Some(end)) => {
                if let Some(start) = start
                    && end <= start
                {
                    return Err(Refusal::new(
                        reasons::INVALID_WINDOW,
                        format!("spec.endTime {end} is not after spec.startTime {start}; write a later one."),
                    ));
                }
                let last = later(start.unwrap_or(accepted), cap.0);
                if end > last {
                    self.notes
                        .push(format!("end {end} clipped to {last}: {cap} is the {}'s cap", self.caps.whose));
                }
                Ok(Window::EndTime(end.min(last)))
            }
        }
    }

    fn retention(&mut self, asked: Option<&str>) -> Result<GoDuration, Refusal> {
        let cap = self.caps.retention;
        let Some(text) = asked else { return Ok(self.defaults.retention.min(cap)) };
        let retention = self.duration("retention", text)?;
        if retention > cap {
            self.clipped("retention", text, cap);
        }
        Ok(retention.min(cap))
    }

    fn output(&self, store: Option<&str>) -> Result<Output, Refusal> {
        match store {
            Some(store) if !self.caps.outputs.iter().any(|known| known == store) => {
                let known = match self.caps.outputs.as_slice() {
                    [] => "none is defined".to_owned(),
                    known => format!("known are {}", known.join(", ")),
                };
                Err(Refusal::new(
                    reasons::UNKNOWN_OUTPUT,
                    format!(
                        "spec.output.objectStore: there is no destination \"{store}\" here ({known}); leave \
                         spec.output out to keep the files on the node."
                    ),
                ))
            }
            store => Ok(Output { object_store: store.map(str::to_owned) }),
        }
    }

    /// An optional limit: at least 1, at most the cap, the cap when none is asked.
    fn limit(
        &mut self,
        field: &str,
        asked: Option<&Amount>,
        cap: Option<u64>,
        hint: &str,
    ) -> Result<Option<u64>, Refusal> {
        let Some(amount) = asked else { return Ok(cap) };
        let number = self.at_least_one(field, amount, hint)?;
        match cap {
            Some(cap) if number > cap => {
                self.clipped(field, amount.as_str(), cap_text(field, cap));
                Ok(Some(cap))
            }
            _ => Ok(Some(number)),
        }
    }

    fn clipped(&mut self, field: &str, asked: &str, cap: impl Display) {
        let whose = self.caps.whose;
        self.notes.push(format!("{} {} clipped to {cap}, the {whose}'s cap", short(field), asked.trim()));
    }

    fn at_least_one(&self, field: &str, amount: &Amount, hint: &str) -> Result<u64, Refusal> {
        match amount.value() {
            Ok(0) => Err(self.bad(field, format!("0 would keep nothing; {hint}"))),
            Ok(number) => Ok(number),
            Err(error) => Err(self.bad(field, error)),
        }
    }

    fn duration(&self, field: &str, text: &str) -> Result<GoDuration, Refusal> {
        text.parse().map_err(|error| self.bad(field, error))
    }

    fn time(&self, field: &str, text: Option<&str>) -> Result<Option<Timestamp>, Refusal> {
        let Some(text) = text else { return Ok(None) };
        let time = text.trim().parse().map_err(|_| {
            let example = "2026-12-01T10:00:00Z";
            self.bad(field, format!("\"{text}\" is not a time with a zone; write it like {example}"))
        })?;
        Ok(Some(time))
    }

    fn bad(&self, field: &str, problem: impl Display) -> Refusal {
        Refusal::new(reasons::INVALID_VALUE, format!("{}: {problem}.", self.names.of(field)))
    }
}

/// A cap as it is told: bytes short where that loses nothing.
fn cap_text(field: &str, cap: u64) -> String {
    const UNITS: [(u32, &str); 3] = [(30, "Gi"), (20, "Mi"), (10, "Ki")];
    let unit = UNITS.into_iter().find(|(bits, _)| cap.trailing_zeros() >= *bits && cap > 0);
    match unit {
        Some((bits, unit)) if field.contains("bytes") => format!("{}{unit}", cap >> bits),
        _ => cap.to_string(),
    }
}

#[cfg(test)]
mod tests;
