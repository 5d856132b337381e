//! What is worth an event, and the event that tells it.

use capture_api::{PodCapture, PodCaptureStatus, Refusal, RunState};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

use crate::{requests::kubernetes::store::Pointless, session::wanted::Wanted};

/// The API's bounds.
const NOTE_BYTES: usize = 1000;
const INSTANCE_BYTES: usize = 128;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::requests::kubernetes) struct Told {
    warning: bool,
    pub(super) reason: String,
    pub(super) note: String,
    /// Whom it concerns, and the UID of their namespace.
    pub(super) regarding: Vec<ObjectReference>,
    pub(super) namespace_uid: Option<String>,
}

/// What is worth an event of a record that was `before` (none when it is new) and is `now`.
pub(in crate::requests::kubernetes) fn news(before: Option<&PodCapture>, now: &PodCapture) -> Vec<Told> {
    let none = PodCaptureStatus::default();
    let was = before.and_then(|record| record.status.as_ref()).unwrap_or(&none);
    let is = now.status.as_ref().unwrap_or(&none);
    let mut news = Vec::new();
    let mut tell = |warning: bool, reason: &str, note: String| {
        news.push(Told {
            warning,
            reason: reason.to_owned(),
            note,
            regarding: concerned(now),
            namespace_uid: Some(now.spec.namespace_uid.clone()),
        });
    };
    let record = now.metadata.name.as_deref().unwrap_or_default();
    let pod = &now.spec.pod;
    if is.start_time.is_some() && was.start_time.is_none() {
        let node = &now.spec.node;
        tell(
            false,
            "CaptureStarted",
            format!("Packets of pod {pod} are captured on node {node} (PodCapture {record})."),
        );
    }
    let lost = |status: &PodCaptureStatus| status.drops.ring + status.drops.storage;
    if lost(was) == 0 && lost(is) > 0 {
        let drops = is.drops;
        tell(
            true,
            "PacketsLost",
            format!(
                "The capture of pod {pod} loses packets: ring {}, storage {} so far (PodCapture {record}).",
                drops.ring, drops.storage
            ),
        );
    }
    let changed = is.state != was.state || is.reason != was.reason;
    let (warning, reason) = match is.state {
        _ if !changed => return news,
        RunState::Completed => (false, "CaptureCompleted"),
        RunState::Stopped => (false, "CaptureStopped"),
        RunState::Refused => (true, "CaptureRefused"),
        RunState::Failed => (true, "CaptureFailed"),
        _ => return news,
    };
    let message = is.message.as_deref().unwrap_or_default();
    let held = if is.state == RunState::Refused {
        String::new()
    } else {
        format!(" It holds {} packets.", is.packets)
    };
    tell(warning, reason, format!("PodCapture {record} of pod {pod}: {message}{held}"));
    news
}

/// A capture that means no pods as far as can be told.
pub(in crate::requests::kubernetes) fn pointless(capture: &Pointless) -> Told {
    let Pointless { name, uid, refusal } = capture;
    Told {
        warning: true,
        reason: "CaptureRefused".into(),
        note: refusal.message.clone(),
        regarding: vec![reference(
            capture_api::API_VERSION,
            "PacketCapture",
            &name.namespace,
            &name.name,
            uid,
        )],
        namespace_uid: None,
    }
}

/// A run that was refused and has no record, since its namespace has so many of these already.
pub(in crate::requests::kubernetes) fn turned_away(wanted: &Wanted, refusal: &Refusal, node: &str) -> Told {
    let (namespace, request) = (&wanted.key.namespace, &wanted.request);
    let regarding = match &request.name {
        Some(name) => reference(capture_api::API_VERSION, "PacketCapture", namespace, name, &request.uid),
        None => reference("v1", "Pod", namespace, &wanted.pod.name, &wanted.pod.uid),
    };
    Told {
        warning: true,
        reason: "CaptureRefused".into(),
        note: format!(
            "{} Not every refusal of this namespace on node {node} has a PodCapture: there are too many.",
            refusal.message
        ),
        regarding: vec![regarding],
        namespace_uid: Some(wanted.pod.namespace_uid.clone()),
    }
}

/// The pod, and the PacketCapture if that asked.
fn concerned(record: &PodCapture) -> Vec<ObjectReference> {
    let namespace = record.metadata.namespace.as_deref().unwrap_or_default();
    let spec = &record.spec;
    let capture = spec
        .capture
        .as_deref()
        .map(|name| reference(capture_api::API_VERSION, "PacketCapture", namespace, name, &spec.request_uid));
    let pod = reference("v1", "Pod", namespace, &spec.pod, &spec.pod_uid);
    std::iter::once(pod).chain(capture).collect()
}

fn reference(api_version: &str, kind: &str, namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some(api_version.into()),
        kind: Some(kind.into()),
        namespace: Some(namespace.into()),
        name: Some(name.into()),
        uid: Some(uid.into()),
        ..ObjectReference::default()
    }
}

/// The event that tells one object of it.
pub(super) fn event(told: &Told, regarding: &ObjectReference, node: &str, now: Timestamp) -> Event {
    let cut = |text: &str, most: usize| text[..text.floor_char_boundary(most.min(text.len()))].to_owned();
    let name = regarding.name.as_deref().unwrap_or_default();
    // As client-go names them, cut to what a name may have.
    let name = format!("{}.{:x}", cut(name, 200).trim_end_matches(['-', '.']), now.as_nanosecond());
    Event {
        metadata: ObjectMeta {
            namespace: regarding.namespace.clone(),
            name: Some(name),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some(if told.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(told.reason.clone()),
        action: Some("Capture".into()),
        note: Some(cut(&told.note, NOTE_BYTES)),
        regarding: Some(regarding.clone()),
        reporting_controller: Some("podtap.dev/agent".into()),
        reporting_instance: Some(cut(node, INSTANCE_BYTES)),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::requests::kubernetes::records::tests::record;

    fn reasons(before: Option<&PodCapture>, now: &PodCapture) -> Vec<String> {
        news(before, now).into_iter().map(|told| told.reason).collect()
    }

    fn begun(state: RunState) -> PodCapture {
        let mut record = record("web-12345", state);
        record.status.as_mut().unwrap().start_time = Some(Timestamp::UNIX_EPOCH);
        record
    }

    #[test]
    fn start_end_and_refusal_are_told_once() {
        let new = record("web-12345", RunState::Pending);
        assert!(reasons(None, &new).is_empty());
        let waiting = begun(RunState::WaitingForTraffic);
        assert_eq!(reasons(Some(&new), &waiting), ["CaptureStarted"]);
        let capturing = begun(RunState::Capturing);
        assert!(reasons(Some(&waiting), &capturing).is_empty());
        assert_eq!(reasons(Some(&capturing), &begun(RunState::Stopped)), ["CaptureStopped"]);
        assert_eq!(reasons(Some(&capturing), &begun(RunState::Completed)), ["CaptureCompleted"]);
        assert_eq!(reasons(None, &record("web-12345", RunState::Refused)), ["CaptureRefused"]);
        let refused = record("web-12345", RunState::Refused);
        assert!(reasons(Some(&refused), &refused).is_empty());
    }

    #[test]
    fn loss_is_told_when_it_begins() {
        let before = begun(RunState::Capturing);
        let mut lossy = before.clone();
        lossy.status.as_mut().unwrap().drops.ring = 5;
        let told = news(Some(&before), &lossy);
        assert!(
            told[0].warning && told[0].reason == "PacketsLost" && told[0].note.contains("ring 5"),
            "{told:?}"
        );
        let mut more = lossy.clone();
        more.status.as_mut().unwrap().drops.ring = 50;
        assert!(news(Some(&lossy), &more).is_empty());
        // What a user asked to be left out is no loss.
        let mut limited = before.clone();
        limited.status.as_mut().unwrap().drops.rate = 5;
        assert!(news(Some(&before), &limited).is_empty());
    }

    #[test]
    fn events_are_on_the_pod_and_on_the_capture_and_within_the_apis_bounds() {
        let mut record = begun(RunState::Failed);
        record.spec.capture = Some("slow".into());
        record.spec.request_uid = "uid-slow".into();
        record.spec.pod = "p".repeat(253);
        record.status.as_mut().unwrap().message = Some("\u{e9}".repeat(2000));
        let told = news(Some(&begun(RunState::Capturing)), &record).remove(0);
        let whom: Vec<_> = told.regarding.iter().map(|whom| whom.kind.clone().unwrap()).collect();
        assert_eq!(whom, ["Pod", "PacketCapture"]);
        for whom in &told.regarding {
            let event = event(&told, whom, "node1", Timestamp::UNIX_EPOCH);
            assert!(event.note.unwrap().len() <= 1024 && event.metadata.name.unwrap().len() <= 253);
            assert_eq!(event.type_.as_deref(), Some("Warning"));
        }
        assert_eq!(told.regarding[1].uid.as_deref(), Some("uid-slow"));
    }
}
