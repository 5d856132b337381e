//! Checks an object against its own schema, so that a typing error gets the answer that a person would give:
//! which field is unknown and which one was meant, what kind of value belongs there, which words are known.

use std::fmt;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// Where, such as `spec.limits.packets`; empty is the object itself.
    pub path: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is no such field; the nearest known one if any is near.
    Unknown {
        /// The nearest known name.
        nearest: Option<String>,
        /// All known names at this place.
        known: Vec<String>,
    },
    /// The field must be there.
    Missing,
    /// The value is of another kind.
    Kind {
        /// What belongs there.
        expected: &'static str,
        /// The value, as JSON.
        found: String,
    },
    /// The value is none of the known words.
    Word {
        /// The value.
        found: String,
        /// The words.
        known: Vec<String>,
        /// The nearest word.
        nearest: Option<String>,
    },
}

impl fmt::Display for FieldError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "the object" } else { &self.path };
        match &self.problem {
            Problem::Unknown { nearest: Some(nearest), .. } => {
                write!(out, "there is no field {path}: did you mean {nearest}?")
            }
            Problem::Unknown { nearest: None, known } => {
                write!(out, "there is no field {path}; known are {}", known.join(", "))
            }
            Problem::Missing => write!(out, "{path} is missing"),
            Problem::Kind { expected, found } => write!(out, "{path} must be {expected}, not {found}"),
            Problem::Word { found, known, nearest } => {
                write!(out, "{path}: \"{found}\" is none of {}", known.join(", "))?;
                match nearest {
                    Some(nearest) => write!(out, ": did you mean {nearest}?"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Checks `value` against the schema of `T`. `path` is what the messages call the value.
///
/// # Errors
/// The first field that is unknown, missing, of another kind, or none of the known words.
pub fn check<T: JsonSchema>(value: &Value, path: &str) -> Result<(), FieldError> {
    let schema = SchemaSettings::openapi3()
        .with(|settings| settings.inline_subschemas = true)
        .into_generator()
        .into_root_schema_for::<T>();
    walk(value, schema.as_value(), path)
}

/// The known name that is nearest to `name`, if one is near enough to be meant.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&lower, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= (known.len().max(3) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

fn walk(value: &Value, schema: &Value, path: &str) -> Result<(), FieldError> {
    let error = |problem| Err(FieldError { path: path.to_owned(), problem });
    let schema = present(schema);
    if value.is_null() {
        // Absent, as Kubernetes takes it.
        return Ok(());
    }
    if let Some(words) = words(schema) {
        return match value.as_str() {
            Some(word) if words.iter().any(|known| known == word) => Ok(()),
            Some(word) => {
                let nearest = nearest(word, words.iter().map(String::as_str)).map(str::to_owned);
                error(Problem::Word { found: word.to_owned(), known: words, nearest })
            }
            None => error(kind("a word", value)),
        };
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return match value {
            Value::Number(_) | Value::String(_) => Ok(()),
            _ => error(kind("a number or a quantity such as 100Mi", value)),
        };
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => object(value, schema, path),
        Some("array") => match (value, schema.get("items")) {
            (Value::Array(values), Some(items)) => values
                .iter()
                .enumerate()
                .try_for_each(|(index, value)| walk(value, items, &format!("{path}[{index}]"))),
            (Value::Array(_), None) => Ok(()),
            _ => error(kind("a list", value)),
        },
        Some("string") if !value.is_string() => error(kind("a text (write it in quotes)", value)),
        Some("boolean") if !value.is_boolean() => error(kind("true or false", value)),
        Some("integer") if !(value.is_i64() || value.is_u64()) => error(kind("a whole number", value)),
        _ => Ok(()),
    }
}

fn object(value: &Value, schema: &Value, path: &str) -> Result<(), FieldError> {
    let Value::Object(fields) = value else {
        return Err(FieldError { path: path.to_owned(), problem: kind("an object with fields", value) });
    };
    let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let others = schema.get("additionalProperties").filter(|schema| schema.is_object());
    for (name, value) in fields {
        match (properties.get(name), others) {
            (Some(schema), _) | (None, Some(schema)) => walk(value, schema, &inside(name))?,
            (None, None) if properties.is_empty() => {}
            (None, None) => {
                let known: Vec<String> = properties.keys().cloned().collect();
                let nearest = nearest(name, known.iter().map(String::as_str)).map(&inside);
                return Err(FieldError { path: inside(name), problem: Problem::Unknown { nearest, known } });
            }
        }
    }
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    match required.filter_map(Value::as_str).find(|name| fields.get(*name).is_none_or(Value::is_null)) {
        Some(name) => Err(FieldError { path: inside(name), problem: Problem::Missing }),
        None => Ok(()),
    }
}

/// The schema of a value that is there, of one that may be absent: "this or null" without the null.
fn present(schema: &Value) -> &Value {
    let Some(choices) = schema.get("anyOf").and_then(Value::as_array) else { return schema };
    let is_null = |choice: &Value| {
        choice.get("enum").and_then(Value::as_array).is_some_and(|words| words.iter().all(Value::is_null))
    };
    let mut others = choices.iter().filter(|choice| !is_null(choice));
    match (others.next(), others.next()) {
        (Some(only), None) => only,
        _ => schema,
    }
}

/// The words of an enumeration, whichever way the schema lists them.
fn words(schema: &Value) -> Option<Vec<String>> {
    let list = |schema: &Value| -> Option<Vec<String>> {
        let values = schema.get("enum")?.as_array()?;
        Some(values.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    list(schema).or_else(|| {
        let one_of = schema.get("oneOf")?.as_array()?;
        let lists: Option<Vec<Vec<String>>> = one_of.iter().map(list).collect();
        Some(lists?.concat())
    })
}

fn kind(expected: &'static str, value: &Value) -> Problem {
    let mut found = value.to_string();
    if found.chars().count() > 40 {
        found = found.chars().take(37).chain("...".chars()).collect();
    }
    Problem::Kind { expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PacketCaptureSpec;

    fn problem(json: &str) -> String {
        let value = serde_json::from_str(json).unwrap();
        check::<PacketCaptureSpec>(&value, "spec").expect_err(json).to_string()
    }

    #[test]
    fn a_good_spec_passes() {
        let spec = r#"{"podSelector":{"matchLabels":{"app":"web"},"matchExpressions":[{"key":"a","operator":"In",
            "values":["b"]}]},"podNames":["a"],"filter":"tcp port 80","direction":"Both","interface":"net1","snapLength":65535,
            "headersOnly":false,"sample":1,"rateLimit":{"packetsPerSecond":100000,"bytesPerSecond":"100Mi"},
            "limits":{"packets":1000000,"bytes":"1Gi"},"rotation":{"fileBytes":"100Mi","files":10,"interval":"1h"},
            "startTime":"2026-12-01T10:00:00Z","duration":"10m","state":"Running","retention":"24h",
            "output":{"objectStore":"archive"},"endTime":null}"#;
        check::<PacketCaptureSpec>(&serde_json::from_str(spec).unwrap(), "spec").unwrap();
    }

    #[test]
    fn an_unknown_field_is_named_with_the_one_that_was_meant() {
        assert_eq!(
            problem(r#"{"durration":"1m"}"#),
            "there is no field spec.durration: did you mean spec.duration?"
        );
        assert_eq!(
            problem(r#"{"limits":{"Packets":1}}"#),
            "there is no field spec.limits.Packets: did you mean spec.limits.packets?"
        );
        assert_eq!(
            problem(r#"{"podSelector":{"matchLabel":{}}}"#),
            "there is no field spec.podSelector.matchLabel: did you mean spec.podSelector.matchLabels?"
        );
        assert_eq!(
            problem(r#"{"limits":{"colour":1}}"#),
            "there is no field spec.limits.colour; known are bytes, packets"
        );
    }

    #[test]
    fn a_value_of_another_kind_is_named() {
        assert_eq!(problem(r#"{"filter":80}"#), "spec.filter must be a text (write it in quotes), not 80");
        assert_eq!(
            problem(r#"{"headersOnly":"yes"}"#),
            "spec.headersOnly must be true or false, not \"yes\""
        );
        assert_eq!(problem(r#"{"podNames":"a"}"#), "spec.podNames must be a list, not \"a\"");
        assert_eq!(
            problem(r#"{"snapLength":true}"#),
            "spec.snapLength must be a number or a quantity such as 100Mi, not true"
        );
        assert_eq!(problem(r#"{"limits":[]}"#), "spec.limits must be an object with fields, not []");
    }

    #[test]
    fn an_unknown_word_is_named_with_the_known_ones() {
        assert_eq!(
            problem(r#"{"direction":"frompod"}"#),
            "spec.direction: \"frompod\" is none of Both, FromPod, ToPod: did you mean FromPod?"
        );
        assert_eq!(problem(r#"{"state":"Off"}"#), "spec.state: \"Off\" is none of Running, Paused, Stopped");
    }
}
