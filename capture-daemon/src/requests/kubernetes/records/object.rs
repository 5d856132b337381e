//! A record as the API server is to hold it, and the smallest patch that makes it so.

use std::collections::BTreeMap;

use capture_api::{FileStatus, PodCapture, RequestKind, RunState, keys, names};
use serde_json::{Map, Value, json};

/// What a record's list of files may take: no object grows without bound, whatever a capture rotates.
const FILES_BYTES: usize = 5 << 10;
/// What a message may take.
const MESSAGE_BYTES: usize = 1 << 10;
/// What a note may take.
const NOTE_BYTES: usize = 512;
/// How many notes are shown.
const NOTES: usize = 4;

/// The two parts of a record, which are written apart.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) spec: Value,
    pub(super) status: Value,
}

/// The record, bounded.
pub(super) fn shown(record: &PodCapture) -> Shown {
    let mut status = record.status.clone().unwrap_or_default();
    if let Some(message) = &mut status.message {
        cut(message, MESSAGE_BYTES);
    }
    status.notes.truncate(NOTES);
    status.notes.iter_mut().for_each(|note| cut(note, NOTE_BYTES));
    let listed = newest(&status.files);
    if listed < status.files.len() {
        let all = status.files.len();
        status.files.drain(..all - listed);
        status.notes.push(format!("the newest {listed} of {all} files are listed here"));
    }
    // What of both is no JSON cannot be: they are made of texts, numbers and lists.
    Shown {
        spec: serde_json::to_value(&record.spec).unwrap_or_default(),
        status: serde_json::to_value(&status).unwrap_or_default(),
    }
}

/// How many of the newest files fit.
fn newest(files: &[FileStatus]) -> usize {
    let mut room = FILES_BYTES;
    let fits = |file: &&FileStatus| {
        // {"bytes":20 digits,"name":"..."},
        let length = file.name.len() + 40;
        let fits = length <= room;
        room = room.saturating_sub(length);
        fits
    };
    files.iter().rev().take_while(fits).count()
}

fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        let end = text.floor_char_boundary(most - 3);
        text.truncate(end);
        text.push_str("...");
    }
}

/// The object to create.
pub(super) fn created(record: &PodCapture, shown: &Shown) -> Value {
    json!({
        "apiVersion": capture_api::API_VERSION,
        "kind": "PodCapture",
        "metadata": {
            "namespace": record.metadata.namespace,
            "name": record.metadata.name,
            "labels": labels(record),
        },
        "spec": shown.spec,
    })
}

fn labels(record: &PodCapture) -> BTreeMap<&'static str, &str> {
    let spec = &record.spec;
    let request = match spec.request {
        RequestKind::Label => "Label",
        RequestKind::PacketCapture => "PacketCapture",
    };
    [
        (keys::RECORD_POD, Some(spec.pod.as_str())),
        (keys::RECORD_CAPTURE, spec.capture.as_deref()),
        (keys::RECORD_NODE, Some(spec.node.as_str())),
        (keys::RECORD_REQUEST, Some(request)),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key, value.filter(|value| names::is_label_value(value))?)))
    .collect()
}

/// What is worth a write at once: all that a person waits for. Counters, and messages that hold some, are not.
pub(super) fn at_once(record: &PodCapture) -> impl PartialEq + use<'_> {
    let status = record.status.as_ref();
    let state = status.map_or(RunState::Pending, |status| status.state);
    let reason = status.and_then(|status| status.reason.as_deref());
    let notes = status.map_or(&[][..], |status| status.notes.as_slice());
    let interface = status.and_then(|status| status.interface.as_deref());
    (state, reason, notes, interface, &record.spec.settings)
}

/// Whether the run is over: its record changes no more.
pub(super) fn is_final(record: &PodCapture) -> bool {
    record.status.as_ref().is_some_and(|status| status.state.is_final())
}

/// The JSON merge patch (RFC 7386) that makes `from` into `to`; none when they are equal.
pub(super) fn difference(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for (key, value) in to {
        match from.get(key) {
            None => {
                patch.insert(key.clone(), value.clone());
            }
            Some(before) => patch.extend(difference(before, value).map(|patch| (key.clone(), patch))),
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::record, *};

    #[test]
    fn a_patch_holds_what_changed_and_nothing_else() {
        let from = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1], "g": 1});
        let to = json!({"a": 1, "b": {"c": 2, "d": 4}, "e": [1, 2], "h": {"x": 1}});
        let expected = json!({"b": {"d": 4}, "e": [1, 2], "g": null, "h": {"x": 1}});
        assert_eq!(difference(&from, &to), Some(expected));
        assert_eq!(difference(&to, &to), None);
        assert_eq!(difference(&Value::Null, &to), Some(to.clone()));
    }

    #[test]
    fn a_created_object_names_its_run_in_labels_that_fit() {
        let mut record = record("web-12345", RunState::Pending);
        record.spec.capture = Some("x".repeat(64));
        let object = created(&record, &shown(&record));
        assert_eq!(
            object["metadata"],
            json!({"namespace": "team-a", "name": "web-12345", "labels": {
                "podtap.dev/pod": "web", "podtap.dev/node": "node1", "podtap.dev/request": "Label"}})
        );
        assert_eq!((&object["kind"], &object["spec"]["podUID"]), (&json!("PodCapture"), &json!("uid-web")));
        assert!(object.get("status").is_none());
    }

    #[test]
    fn a_record_stays_small_whatever_its_run_holds() {
        let mut record = record(&"r".repeat(200), RunState::Capturing);
        let status = record.status.as_mut().unwrap();
        status.message = Some("\u{e9}".repeat(5000));
        status.notes = vec!["n".repeat(5000); 100];
        status.files = (0..8000)
            .map(|number| FileStatus {
                name: format!("{}_{number:04}.pcapng", "r".repeat(200)),
                bytes: number,
            })
            .collect();
        let shown = shown(&record);
        let size = created(&record, &shown).to_string().len() + shown.status.to_string().len();
        assert!(size < 12 << 10, "{size}");
        let files = shown.status["files"].as_array().unwrap();
        assert_eq!(files.last().unwrap()["bytes"], 7999);
        let note = format!("the newest {} of 8000 files are listed here", files.len());
        assert_eq!(shown.status["notes"].as_array().unwrap().last(), Some(&json!(note)));
    }

    #[test]
    fn counters_can_wait_and_states_cannot() {
        let calm = record("web-12345", RunState::WaitingForTraffic);
        let mut counted = calm.clone();
        counted.status.as_mut().unwrap().from_pod.seen = 9;
        counted.status.as_mut().unwrap().message = Some("The filter accepted none of 9 packets.".into());
        assert!(at_once(&calm) == at_once(&counted));
        let capturing = record("web-12345", RunState::Capturing);
        assert!(at_once(&calm) != at_once(&capturing));
        let mut noted = calm.clone();
        noted.status.as_mut().unwrap().notes.push("clipped".into());
        assert!(at_once(&calm) != at_once(&noted));
    }
}
