//! Whole numbers written as Kubernetes quantities: `65535`, `100Mi`, `1Gi`, `1M`, `1e6`.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number as its author wrote it, `1000` or `"1k"`. It is read by [`Amount::value`], so that an object with a
/// bad one can still be read and answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Amount(String);

impl Amount {
    /// The text as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The number.
    ///
    /// # Errors
    /// The text is no quantity, or no whole number that fits 64 bits.
    pub fn value(&self) -> Result<u64, QuantityError> {
        parse_quantity(&self.0)
    }
}

impl From<u64> for Amount {
    fn from(number: u64) -> Self {
        Self(number.to_string())
    }
}

impl From<&str> for Amount {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Serialize for Amount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u64>() {
            Ok(number) => serializer.serialize_u64(number),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Amount;
            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("a number or a quantity such as 100Mi")
            }
            fn visit_u64<E>(self, number: u64) -> Result<Amount, E> {
                Ok(number.into())
            }
            fn visit_i64<E>(self, number: i64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Amount, E> {
                Ok(Amount(number.to_string()))
            }
            fn visit_str<E>(self, text: &str) -> Result<Amount, E> {
                Ok(text.into())
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> Cow<'static, str> {
        "Amount".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }
}

/// Why a text is not a quantity. Each message names the text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// No number at the start.
    #[error("\"{0}\" is not a number; write it like 1000, 100Mi or 1Gi")]
    NotANumber(String),
    /// Something unknown behind the number.
    #[error(
        "\"{text}\" ends in \"{suffix}\", which is no unit; use Ki, Mi, Gi, Ti (1024) or k, M, G, T (1000)"
    )]
    Suffix {
        /// The whole text.
        text: String,
        /// What follows the number.
        suffix: String,
    },
    /// Below zero.
    #[error("\"{0}\" is negative")]
    Negative(String),
    /// Such as `0.5` or `100m`.
    #[error("\"{0}\" is not a whole number")]
    Fraction(String),
    /// More than 64 bits.
    #[error("\"{0}\" is too large")]
    TooLarge(String),
}

/// Reads a Kubernetes quantity as a whole number.
///
/// # Errors
/// See [`QuantityError`].
pub fn parse_quantity(text: &str) -> Result<u64, QuantityError> {
    let trimmed = text.trim();
    let unsigned = trimmed.strip_prefix('+').unwrap_or(trimmed);
    if unsigned.starts_with('-') {
        return Err(QuantityError::Negative(text.to_owned()));
    }
    let digits_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return Err(QuantityError::NotANumber(text.to_owned()));
    }
    // value = mantissa * base^power / 10^places
    let too_large = || QuantityError::TooLarge(text.to_owned());
    let fraction = fraction.trim_end_matches('0');
    let mantissa = format!("0{whole}{fraction}").parse::<u128>().map_err(|_| too_large())?;
    let (multiplier, divisor) = scale(suffix)
        .ok_or_else(|| QuantityError::Suffix { text: text.to_owned(), suffix: suffix.to_owned() })?;
    let places = u32::try_from(fraction.len()).map_err(|_| too_large())?;
    let divisor = 10u128.checked_pow(places).and_then(|p| p.checked_mul(divisor)).ok_or_else(too_large)?;
    let product = mantissa.checked_mul(multiplier).ok_or_else(too_large)?;
    if !product.is_multiple_of(divisor) {
        return Err(QuantityError::Fraction(text.to_owned()));
    }
    u64::try_from(product / divisor).map_err(|_| too_large())
}

/// What a suffix multiplies by and divides by.
fn scale(suffix: &str) -> Option<(u128, u128)> {
    let multiplier = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "Ei" => 1 << 60,
        "m" => return Some((1, 1_000)),
        "u" => return Some((1, 1_000_000)),
        "n" => return Some((1, 1_000_000_000)),
        _ => {
            let exponent: i8 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = 10u128.checked_pow(exponent.unsigned_abs().into())?;
            return Some(if exponent < 0 { (1, power) } else { (power, 1) });
        }
    };
    Some((multiplier, 1))
}

/// Bytes for people: `512`, `1.4Ki`, `20Mi`, `1Gi`.
#[must_use]
pub fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut unit = 0;
    let mut size = 1024u64;
    while unit + 1 < UNITS.len() && bytes / size >= 1024 {
        size *= 1024;
        unit += 1;
    }
    let tenths = (u128::from(bytes) * 10 / u128::from(size)) as u64;
    if tenths >= 1000 || tenths.is_multiple_of(10) {
        format!("{}{}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, value) in [
            ("65535", 65_535),
            ("0", 0),
            ("1k", 1_000),
            ("1M", 1_000_000),
            ("100Mi", 104_857_600),
            ("1Gi", 1_073_741_824),
            ("1.5Ki", 1_536),
            ("0.5G", 500_000_000),
            ("1e6", 1_000_000),
            ("1E3", 1_000),
            ("1E", 1_000_000_000_000_000_000),
            ("2000m", 2),
            ("+7", 7),
            (" 8 ", 8),
            ("1.0", 1),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_quantity(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn bad_quantities_are_named() {
        for text in ["", "abc", "Gi", "1.2.3", "1Gb", "10 MB", "-1", "0.5", "100m", "99Ei", "1e99", "1i", "."]
        {
            let error = parse_quantity(text).expect_err(text);
            assert!(error.to_string().contains(&format!("\"{text}\"")), "{error}");
        }
        assert_eq!(
            parse_quantity("1Gb").unwrap_err().to_string(),
            "\"1Gb\" ends in \"Gb\", which is no unit; use Ki, Mi, Gi, Ti (1024) or k, M, G, T (1000)"
        );
    }

    #[test]
    fn an_amount_keeps_its_text_and_takes_numbers_too() {
        let amounts: Vec<Amount> = serde_json::from_str(r#"[100, "1Gi", "x", -5]"#).unwrap();
        assert_eq!(amounts[0].value(), Ok(100));
        assert_eq!(amounts[1].value(), Ok(1 << 30));
        assert!(amounts[2].value().is_err() && amounts[3].value().is_err());
        assert_eq!(serde_json::to_string(&amounts[..2]).unwrap(), r#"[100,"1Gi"]"#);
    }

    #[test]
    fn sizes_are_shown_short() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1Ki"),
            (1536, "1.5Ki"),
            (20 << 20, "20Mi"),
            ((1 << 30) - 1, "1023Mi"),
            (1 << 30, "1Gi"),
            (u64::MAX, "15.9Ei"),
        ] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
