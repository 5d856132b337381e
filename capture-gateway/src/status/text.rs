//! Words for messages.

use capture_api::{PacketCaptureSpec, Refusal, keys, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The most names of pods in a message.
const NAMED: usize = 3;

/// "1 pod", "2 pods".
pub(super) fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A note as a sentence. A field's name at its beginning stays as it is written.
pub(crate) fn sentence(note: &str) -> String {
    let end = if note.ends_with(['.', '?']) { "" } else { "." };
    let field = note.split(' ').next().is_some_and(|word| word.trim_end_matches('.').contains('.'));
    let mut letters = note.chars();
    match letters.next() {
        Some(first) if !field => format!("{}{}{end}", first.to_uppercase(), letters.as_str()),
        _ => format!("{note}{end}"),
    }
}

/// A reason as the API takes it: what is no CamelCase word becomes one that says nothing.
pub(super) fn reason(reason: &str) -> &str {
    let word = reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.chars().all(|c| c.is_ascii_alphanumeric());
    if word { reason } else { "Refused" }
}

/// The command that lists the runs of a capture.
pub(super) fn list_of_runs(capture: &str) -> String {
    if names::is_label_value(capture) {
        format!("`kubectl get podcaptures -l {}={capture}`", keys::RECORD_CAPTURE)
    } else {
        "`kubectl get podcaptures`".to_owned()
    }
}

/// "pods with app=web and the pods db".
pub(super) fn pods(spec: &Result<PacketCaptureSpec, Refusal>) -> String {
    let Ok(spec) = spec else { return "nothing".to_owned() };
    let by_label = spec.pod_selector.as_ref().map(|selector| match labels(selector) {
        all if all.is_empty() => "every pod of the namespace".to_owned(),
        labels => format!("pods with {labels}"),
    });
    let by_name = (!spec.pod_names.is_empty()).then(|| format!("pods named {}", some(&spec.pod_names)));
    by_label.into_iter().chain(by_name).collect::<Vec<_>>().join(" and ")
}

/// "spec.podSelector (app=web) and spec.podNames (db)".
pub(super) fn selectors(spec: &Result<PacketCaptureSpec, Refusal>) -> String {
    let Ok(spec) = spec else { return "the request".to_owned() };
    let by_label = spec.pod_selector.as_ref().map(|selector| match labels(selector) {
        all if all.is_empty() => "spec.podSelector".to_owned(),
        labels => format!("spec.podSelector ({labels})"),
    });
    let by_name = (!spec.pod_names.is_empty()).then(|| format!("spec.podNames ({})", some(&spec.pod_names)));
    by_label.into_iter().chain(by_name).collect::<Vec<_>>().join(" and ")
}

fn some(names: &[String]) -> String {
    let named = names.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

/// The selector as kubectl's `-l` takes it.
fn labels(selector: &LabelSelector) -> String {
    let equal = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|expression| {
        let values = expression.values.clone().unwrap_or_default().join(",");
        let key = &expression.key;
        match expression.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "DoesNotExist" => format!("!{key}"),
            _ => key.clone(),
        }
    });
    equal.chain(expressions).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(spec: serde_json::Value) -> Result<PacketCaptureSpec, Refusal> {
        Ok(serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn pods_are_told_as_they_are_selected() {
        let both = spec(json!({
            "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "old", "operator": "DoesNotExist"}]},
            "podNames": ["a", "b", "c", "d"],
        }));
        assert_eq!(pods(&both), "pods with app=web,tier in (a,b),!old and pods named a, b, c and 1 more");
        assert_eq!(
            selectors(&both),
            "spec.podSelector (app=web,tier in (a,b),!old) and spec.podNames (a, b, c and 1 more)"
        );
        assert_eq!(pods(&spec(json!({"podSelector": {}}))), "every pod of the namespace");
    }

    #[test]
    fn words_fit_their_place() {
        assert_eq!((count(1, "run").as_str(), count(0, "run").as_str()), ("1 run", "0 runs"));
        assert_eq!(
            sentence("duration 2h clipped to 10m, the node's cap"),
            "Duration 2h clipped to 10m, the node's cap."
        );
        assert_eq!(
            (reason("InvalidValue"), reason("no such"), reason("")),
            ("InvalidValue", "Refused", "Refused")
        );
        assert_eq!(list_of_runs(&"a".repeat(100)), "`kubectl get podcaptures`");
    }
}
