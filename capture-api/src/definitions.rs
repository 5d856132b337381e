//! The custom resource definitions, as they are installed.

use kube::core::CustomResourceExt;
use serde_json::{Map, Value};

use crate::{CapturePolicy, PacketCapture, PodCapture};

/// The definitions of PacketCapture, PodCapture and CapturePolicy as JSON objects, each with its name.
///
/// They are what [`CustomResourceExt::crd`] gives, put into the API server's own words: it knows signed integers only,
/// and an optional field may be absent but not null (the API server drops nulls itself).
///
/// # Panics
/// Never: what derives a schema is JSON.
#[must_use]
pub fn definitions() -> Vec<(&'static str, Value)> {
    vec![definition::<PacketCapture>(), definition::<PodCapture>(), definition::<CapturePolicy>()]
}

fn definition<T: CustomResourceExt>() -> (&'static str, Value) {
    let mut definition = serde_json::to_value(T::crd()).unwrap_or_default();
    if let Some(versions) = definition.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for version in versions {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                tidy(schema);
            }
        }
    }
    (T::crd_name(), definition)
}

fn tidy(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    fields.remove("nullable");
    if fields.get("default").is_some_and(Value::is_null) {
        fields.remove("default");
    }
    if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
        fields.insert("format".to_owned(), "int64".into());
    }
    // Lines of a comment are lines of one paragraph.
    if let Some(Value::String(text)) = fields.get_mut("description") {
        *text = text.replace("\n\n", "\u{0}").replace('\n', " ").replace('\u{0}', "\n\n");
    }
    for bound in ["minimum", "maximum"] {
        whole(fields, bound);
    }
    for below in ["items", "additionalProperties"] {
        fields.get_mut(below).into_iter().for_each(tidy);
    }
    if let Some(properties) = fields.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(tidy);
    }
}

/// `0.0` as `0`: bounds are floating-point numbers in a definition, and counts here.
fn whole(fields: &mut Map<String, Value>, bound: &str) {
    if let Some(number) = fields.get(bound).and_then(Value::as_f64)
        && number.fract() == 0.0
        && number.abs() < 9e15
    {
        fields.insert(bound.to_owned(), (number as i64).into());
    }
}
