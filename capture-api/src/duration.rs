//! Durations as Go and Kubernetes write them: `10m`, `1h30m`, `24h`, `1.5s`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time, not negative, read and written in Go's way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// So many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// Why a text is not a duration. Each message names the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not numbers with units.
    #[error("\"{0}\" is not a duration; write it like 90s, 10m or 1h30m")]
    NotADuration(String),
    /// A number without a unit.
    #[error("\"{0}\" has no unit; write it like 90s, 10m or 1h30m")]
    NoUnit(String),
    /// A unit that Go does not have, days above all.
    #[error("\"{text}\" has the unit \"{unit}\"; use h, m, s or ms (a day is 24h)")]
    Unit {
        /// The whole text.
        text: String,
        /// The unit.
        unit: String,
    },
    /// Below zero.
    #[error("\"{0}\" is negative")]
    Negative(String),
    /// More than 292 years, as in Go.
    #[error("\"{0}\" is too long")]
    TooLong(String),
}

impl FromStr for GoDuration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, DurationError> {
        let too_long = || DurationError::TooLong(text.to_owned());
        let trimmed = text.trim();
        let mut rest = trimmed.strip_prefix('+').unwrap_or(trimmed);
        if rest.starts_with('-') {
            return Err(DurationError::Negative(text.to_owned()));
        }
        if rest == "0" {
            return Ok(Self::default());
        }
        if rest.is_empty() {
            return Err(DurationError::NotADuration(text.to_owned()));
        }
        let mut total = 0u128;
        while !rest.is_empty() {
            let digits_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits_end);
            let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
            if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
                return Err(DurationError::NotADuration(text.to_owned()));
            }
            let nanoseconds: u128 = match unit {
                "h" => 3_600_000_000_000,
                "m" => 60_000_000_000,
                "s" => 1_000_000_000,
                "ms" => 1_000_000,
                "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
                "ns" => 1,
                "" => return Err(DurationError::NoUnit(text.to_owned())),
                _ => return Err(DurationError::Unit { text: text.to_owned(), unit: unit.to_owned() }),
            };
            // Beyond 18 digits a fraction says nothing in nanoseconds.
            let fraction = &fraction[..fraction.len().min(18)];
            let places = 10u128.pow(fraction.len() as u32);
            let number: u128 = format!("0{whole}{fraction}").parse().map_err(|_| too_long())?;
            total += number.checked_mul(nanoseconds).ok_or_else(too_long)? / places;
            if total > i64::MAX as u128 {
                return Err(too_long());
            }
            rest = tail;
        }
        Ok(Self(Duration::from_nanos(total as u64)))
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let nanoseconds = self.0.subsec_nanos();
        let parts = [
            (seconds / 3600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(nanoseconds / 1_000_000), "ms"),
            (u64::from(nanoseconds / 1_000 % 1_000), "us"),
            (u64::from(nanoseconds % 1_000), "ns"),
        ];
        if self.0.is_zero() {
            return out.write_str("0s");
        }
        for (number, unit) in parts {
            if number > 0 {
                write!(out, "{number}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for GoDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, nanoseconds, shown) in [
            ("10m", 600_000_000_000, "10m"),
            ("1h30m", 5_400_000_000_000, "1h30m"),
            ("24h", 86_400_000_000_000, "24h"),
            ("10m0s", 600_000_000_000, "10m"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1.5h", 5_400_000_000_000, "1h30m"),
            ("1.5s", 1_500_000_000, "1s500ms"),
            (".5s", 500_000_000, "500ms"),
            ("250ms", 250_000_000, "250ms"),
            ("1us1ns", 1_001, "1us1ns"),
            ("0", 0, "0s"),
        ] {
            let read: GoDuration = text.parse().unwrap();
            assert_eq!(read.0.as_nanos(), nanoseconds, "{text}");
            assert_eq!(read.to_string(), shown, "{text}");
            assert_eq!(read.to_string().parse(), Ok(read), "{text}");
        }
    }

    #[test]
    fn bad_durations_are_named() {
        for text in ["", "10", "ten", "1d", "-5m", "1h-5m", "9999999h", "1..5s", "m", "1 h", ".s"] {
            let error = text.parse::<GoDuration>().expect_err(text);
            assert!(error.to_string().contains(&format!("\"{text}\"")), "{error}");
        }
        assert_eq!(
            "2d".parse::<GoDuration>().unwrap_err().to_string(),
            "\"2d\" has the unit \"d\"; use h, m, s or ms (a day is 24h)"
        );
    }
}
