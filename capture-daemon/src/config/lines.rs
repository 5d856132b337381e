//! Which line of a YAML text each key stands on.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// Lines by path, such as `caps.duration`; the first line is 1.
#[derive(Debug, Default)]
pub(super) struct Lines(BTreeMap<String, u64>);

impl Lines {
    /// The line of the key, or of the nearest key around it.
    pub(super) fn of(&self, path: &str) -> Option<u64> {
        let mut path = path;
        loop {
            if let Some(line) = self.0.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut lines = Self::default();
        Below { path: String::new(), lines: &mut lines }.deserialize(deserializer)?;
        Ok(lines)
    }
}

struct Below<'a> {
    path: String,
    lines: &'a mut Lines,
}

impl<'de> DeserializeSeed<'de> for Below<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Below<'_> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let path = if self.path.is_empty() { key.value } else { format!("{}.{}", self.path, key.value) };
            self.lines.0.insert(path.clone(), key.referenced.line());
            map.next_value_seed(Below { path, lines: &mut *self.lines })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<(), A::Error> {
        while values.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_on_their_lines() {
        let text = "# first\na: 1\nb:\n  c: x\n\n  d: {e: 2, f: [1,\n 2]}\nz:\n";
        let lines: Lines = serde_saphyr::from_str(text).unwrap();
        for (path, line) in [("a", 2), ("b", 3), ("b.c", 4), ("b.d", 6), ("b.d.e", 6), ("z", 8)] {
            assert_eq!(lines.of(path), Some(line), "{path}");
        }
        assert_eq!(lines.of("b.c.missing"), Some(4));
        assert_eq!(lines.of("b.d.f[1]"), Some(6));
        assert_eq!(lines.of("nowhere"), None);
    }
}
