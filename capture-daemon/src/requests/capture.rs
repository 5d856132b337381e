//! From a PacketCapture's spec, as somebody wrote it, to the pods it means and what it asks for.

use capture_api::{
    PacketCaptureSpec, Refusal, Selection, reasons,
    strict::{self, FieldError, Problem},
};
use serde_json::{Map, Value};

/// A spec as it was read.
#[derive(Debug)]
pub(super) struct ReadSpec {
    /// The pods it means.
    pub(super) selection: Selection,
    /// What it asks for, or why that cannot be read.
    pub(super) spec: Result<PacketCaptureSpec, Refusal>,
}

/// Reads a spec strictly. An error is one that cannot be attributed to pods: which ones are meant is not clear.
pub(super) fn read_spec(spec: Value) -> Result<ReadSpec, Refusal> {
    let mut problem = None;
    if let Err(error) = strict::check::<PacketCaptureSpec>(&spec, "spec") {
        let concerns_pods = !spec.is_object()
            || ["spec.podSelector", "spec.podNames"].iter().any(|field| error.path.starts_with(field));
        if concerns_pods {
            return Err(refusal(&error));
        }
        problem = Some(error);
    }
    // Whatever is wrong with other fields, the pods that are meant can be told.
    let pods: Map<String, Value> = ["podSelector", "podNames"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), spec.get(name).filter(|value| !value.is_null())?.clone())))
        .collect();
    let unreadable = |error: serde_json::Error| {
        Refusal::new(reasons::INVALID_VALUE, format!("The capture cannot be read: {error}."))
    };
    let pods: PacketCaptureSpec = serde_json::from_value(Value::Object(pods)).map_err(unreadable)?;
    let selection = pods.selection()?;
    let spec = match problem {
        Some(problem) => Err(refusal(&problem)),
        None => serde_json::from_value(without_nulls(spec)).map_err(unreadable),
    };
    Ok(ReadSpec { selection, spec })
}

/// `field:` with nothing behind it is absent, as Kubernetes takes it.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        other => other,
    }
}

/// What is wrong with a field, told as a sentence.
pub(super) fn refusal(error: &FieldError) -> Refusal {
    let reason = match error.problem {
        Problem::Unknown { .. } => reasons::UNKNOWN_FIELD,
        _ => reasons::INVALID_VALUE,
    };
    let text = error.to_string();
    let end = if text.ends_with('?') { "" } else { "." };
    Refusal::new(reason, format!("{}{}{end}", text[..1].to_uppercase(), &text[1..]))
}
