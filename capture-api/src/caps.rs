//! What a request gets when it names nothing, and what it cannot exceed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Amount, GoDuration, MAX_SNAP_LENGTH, Refusal, Rotation, reasons, schema};

/// What a request gets for what it does not name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// How long a capture lasts.
    pub duration: GoDuration,
    /// Bytes of files of one run.
    pub bytes: u64,
    /// Packets of one run; none is no limit.
    pub packets: Option<u64>,
    /// Bytes kept of each packet.
    pub snap_length: u32,
    /// How long files are kept after the end.
    pub retention: GoDuration,
    /// When a new file is begun.
    pub rotation: Rotation,
}

impl Default for Defaults {
    /// 10 minutes, 1 GiB, whole packets, kept for 24 hours, in files of 100 MiB.
    fn default() -> Self {
        Self {
            duration: GoDuration::from_secs(600),
            bytes: 1 << 30,
            packets: None,
            snap_length: MAX_SNAP_LENGTH,
            retention: GoDuration::from_secs(24 * 3600),
            rotation: Rotation { file_bytes: 100 << 20, files: None, interval: None },
        }
    }
}

/// What no request can exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// How long a capture may last.
    pub duration: GoDuration,
    /// Bytes of files of one run.
    pub bytes: u64,
    /// Packets of one run; none is no cap.
    pub packets: Option<u64>,
    /// Bytes kept of each packet.
    pub snap_length: u32,
    /// Packets captured per second of one pod; none is no cap.
    pub packets_per_second: Option<u64>,
    /// Bytes captured per second of one pod; none is no cap.
    pub bytes_per_second: Option<u64>,
    /// Captures at once per node and namespace.
    pub captures: u32,
    /// Captures begun within an hour, per node and namespace; none is no cap.
    pub captures_per_hour: Option<u32>,
    /// Headers only, whatever is asked.
    pub headers_only: bool,
    /// How long files are kept after the end.
    pub retention: GoDuration,
    /// Destinations that may be named.
    pub outputs: Vec<String>,
    /// Whose caps they are, in messages: "the node's cap".
    pub whose: &'static str,
}

impl Default for Caps {
    /// 10 minutes, 1 GiB, 4 captures at once, 24 hours, no destination but the node.
    fn default() -> Self {
        Self {
            duration: GoDuration::from_secs(600),
            bytes: 1 << 30,
            packets: None,
            snap_length: MAX_SNAP_LENGTH,
            packets_per_second: None,
            bytes_per_second: None,
            captures: 4,
            captures_per_hour: None,
            headers_only: false,
            retention: GoDuration::from_secs(24 * 3600),
            outputs: Vec::new(),
            whose: "node",
        }
    }
}

/// Caps as an admin writes them; what is absent is not capped here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapsSpec {
    /// How long a capture may last, such as `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub duration: Option<String>,
    /// Bytes of files of one pod's capture, such as `1Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub bytes: Option<Amount>,
    /// Packets of one pod's capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub packets: Option<Amount>,
    /// Bytes kept of each packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub snap_length: Option<Amount>,
    /// Packets captured per second of one pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub packets_per_second: Option<Amount>,
    /// Bytes captured per second of one pod, such as `100Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub bytes_per_second: Option<Amount>,
    /// Captures at once, per node and namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount_or_none")]
    pub captures: Option<Amount>,
    /// Captures begun per hour, per node and namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount_or_none")]
    pub captures_per_hour: Option<Amount>,
    /// Headers only, whatever is asked.
    #[serde(default)]
    pub headers_only: bool,
    /// Destinations that may be named. None but the node when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::outputs")]
    pub outputs: Option<Vec<String>>,
    /// How long files are kept after the end, such as `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration_or_none")]
    pub retention: Option<String>,
}

impl CapsSpec {
    /// The first of these caps that leaves nothing to capture.
    #[must_use]
    pub fn nothing(&self) -> Option<&'static str> {
        let zero = |amount: &Option<Amount>| amount.as_ref().is_some_and(|amount| amount.value() == Ok(0));
        let no_time = self.duration.as_deref().is_some_and(|text| text.parse() == Ok(GoDuration::default()));
        [
            ("duration", no_time),
            ("bytes", zero(&self.bytes)),
            ("packets", zero(&self.packets)),
            ("snapLength", zero(&self.snap_length)),
            ("packetsPerSecond", zero(&self.packets_per_second)),
            ("bytesPerSecond", zero(&self.bytes_per_second)),
            ("captures", zero(&self.captures)),
            ("capturesPerHour", zero(&self.captures_per_hour)),
        ]
        .into_iter()
        .find_map(|(field, zero)| zero.then_some(field))
    }
}

impl Caps {
    /// The caps that follow from `specs`: the tightest of each, and `fallback`'s where none names it.
    ///
    /// # Errors
    /// A value that cannot be read; the message names the field.
    pub fn resolve<'a>(
        specs: impl IntoIterator<Item = &'a CapsSpec>,
        fallback: &Self,
    ) -> Result<Self, Refusal> {
        let mut tightest = Tightest::default();
        for spec in specs {
            tightest.add(spec)?;
        }
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Self {
            duration: tightest.duration.unwrap_or(fallback.duration),
            bytes: tightest.bytes.unwrap_or(fallback.bytes),
            packets: tightest.packets.or(fallback.packets),
            snap_length: tightest.snap_length.map_or(fallback.snap_length, small).clamp(1, MAX_SNAP_LENGTH),
            packets_per_second: tightest.packets_per_second.or(fallback.packets_per_second),
            bytes_per_second: tightest.bytes_per_second.or(fallback.bytes_per_second),
            captures: tightest.captures.map_or(fallback.captures, small),
            captures_per_hour: tightest.captures_per_hour.map(small).or(fallback.captures_per_hour),
            headers_only: tightest.headers_only || fallback.headers_only,
            retention: tightest.retention.unwrap_or(fallback.retention),
            outputs: tightest.outputs.unwrap_or_else(|| fallback.outputs.clone()),
            whose: fallback.whose,
        })
    }
}

/// The smallest values seen so far.
#[derive(Default)]
struct Tightest {
    duration: Option<GoDuration>,
    bytes: Option<u64>,
    packets: Option<u64>,
    snap_length: Option<u64>,
    packets_per_second: Option<u64>,
    bytes_per_second: Option<u64>,
    captures: Option<u64>,
    captures_per_hour: Option<u64>,
    headers_only: bool,
    retention: Option<GoDuration>,
    outputs: Option<Vec<String>>,
}

impl Tightest {
    fn add(&mut self, spec: &CapsSpec) -> Result<(), Refusal> {
        let number = |field: &str, amount: &Option<Amount>| read(field, amount.as_ref().map(Amount::value));
        let time =
            |field: &str, text: &Option<String>| read(field, text.as_deref().map(str::parse::<GoDuration>));
        tighten(&mut self.duration, time("duration", &spec.duration)?);
        tighten(&mut self.retention, time("retention", &spec.retention)?);
        tighten(&mut self.bytes, number("bytes", &spec.bytes)?);
        tighten(&mut self.packets, number("packets", &spec.packets)?);
        tighten(&mut self.snap_length, number("snapLength", &spec.snap_length)?);
        tighten(&mut self.packets_per_second, number("packetsPerSecond", &spec.packets_per_second)?);
        tighten(&mut self.bytes_per_second, number("bytesPerSecond", &spec.bytes_per_second)?);
        tighten(&mut self.captures, number("captures", &spec.captures)?);
        tighten(&mut self.captures_per_hour, number("capturesPerHour", &spec.captures_per_hour)?);
        self.headers_only |= spec.headers_only;
        if let Some(allowed) = &spec.outputs {
            match &mut self.outputs {
                Some(outputs) => outputs.retain(|output| allowed.contains(output)),
                none => *none = Some(allowed.clone()),
            }
        }
        Ok(())
    }
}

fn tighten<T: Ord>(cap: &mut Option<T>, new: Option<T>) {
    *cap = cap.take().into_iter().chain(new).min();
}

fn read<T, E: std::fmt::Display>(field: &str, value: Option<Result<T, E>>) -> Result<Option<T>, Refusal> {
    value.transpose().map_err(|error| Refusal::new(reasons::INVALID_VALUE, format!("caps.{field}: {error}.")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_cap_wins_and_the_fallback_fills_what_none_names() {
        let one = CapsSpec {
            duration: Some("2h".into()),
            bytes: Some("1Mi".into()),
            packets: Some("10".into()),
            outputs: Some(vec!["a".into(), "b".into()]),
            ..CapsSpec::default()
        };
        let other = CapsSpec {
            duration: Some("3h".into()),
            packets: Some(7.into()),
            headers_only: true,
            outputs: Some(vec!["b".into()]),
            ..CapsSpec::default()
        };
        let caps = Caps::resolve([&one, &other], &Caps::default()).unwrap();
        assert_eq!(
            caps,
            Caps {
                duration: GoDuration::from_secs(7200),
                bytes: 1 << 20,
                packets: Some(7),
                headers_only: true,
                outputs: vec!["b".into()],
                ..Caps::default()
            }
        );
        assert_eq!(Caps::resolve([], &caps).unwrap(), caps);
    }

    #[test]
    fn a_bad_cap_is_named() {
        let bad = CapsSpec { retention: Some("1d".into()), ..CapsSpec::default() };
        let refusal = Caps::resolve([&bad], &Caps::default()).unwrap_err();
        assert!(refusal.message.starts_with("caps.retention: \"1d\""), "{refusal}");
    }
}
