//! Events of the API server (`kubectl describe`, `kubectl get events`), on the pod and on the PacketCapture: a run began,
//! ended, was refused, or lost packets. They are told once and kept nowhere: records say the same, and stay.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use capture_api::{PodCapture, PodCaptureStatus, RunState};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::{
    pace::{Pace, Pauses, seed},
    store::{NamespaceUids, Pointless},
};
use crate::telemetry::{ApiObject, Meters};

/// The most events at once, and how many follow: ten in any ten seconds.
const PACE: (usize, Duration) = (10, Duration::from_secs(10));
/// The most that wait; beyond, the newest are left out.
const MOST_WAITING: usize = 256;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses while the server is away.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The API's bounds.
const NOTE_BYTES: usize = 1000;
const INSTANCE_BYTES: usize = 128;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    warning: bool,
    reason: String,
    note: String,
    /// Whom it concerns, and the UID of their namespace.
    regarding: Vec<ObjectReference>,
    namespace_uid: Option<String>,
}

/// Events that wait to be told.
#[derive(Debug)]
pub(super) struct Events {
    node: String,
    waiting: Mutex<VecDeque<Told>>,
    wake: Notify,
    meters: Meters,
}

impl Events {
    pub(super) fn new(node: &str, meters: &Meters) -> Self {
        Self { node: node.to_owned(), waiting: Mutex::default(), wake: Notify::new(), meters: meters.clone() }
    }

    /// Has it told soon, if there is room.
    pub(super) fn tell(&self, told: Told) {
        let mut waiting = self.waiting();
        if waiting.len() >= MOST_WAITING {
            debug!(reason = told.reason, "an event is left out: too many wait");
            return;
        }
        waiting.push_back(told);
        drop(waiting);
        self.wake.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Told>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells them, until it is dropped.
    pub(super) async fn run(self: Arc<Self>, client: Client, namespaces: NamespaceUids) {
        let mut pace = Pace::new(PACE.0, PACE.1);
        let mut pauses = Pauses::new(PAUSES.0, PAUSES.1, seed(&self.node));
        loop {
            let Some(told) = self.waiting().pop_front() else {
                self.wake.notified().await;
                continue;
            };
            for regarding in &told.regarding {
                let namespace = regarding.namespace.clone().unwrap_or_default();
                let known =
                    namespaces.lock().unwrap_or_else(PoisonError::into_inner).get(&namespace).cloned();
                if known.is_none()
                    || told.namespace_uid.as_ref().is_some_and(|uid| known.as_ref() != Some(uid))
                {
                    continue;
                }
                let event = event(&told, regarding, &self.node, Timestamp::now());
                let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
                loop {
                    tokio::time::sleep_until(pace.free_at(Instant::now()).into()).await;
                    pace.count(Instant::now());
                    let params = PostParams::default();
                    let answer = tokio::time::timeout(PATIENCE, api.create(&params, &event)).await;
                    self.meters.api_write(ApiObject::Event, matches!(answer, Ok(Ok(_))));
                    match answer {
                        Ok(Ok(_)) => break pauses.reset(),
                        // A namespace that is going away takes no events.
                        Ok(Err(kube::Error::Api(status)))
                            if status.code == 404 || status.message.contains("being terminated") =>
                        {
                            debug!(namespace, reason = told.reason, "an event is not taken");
                            break;
                        }
                        Ok(Err(kube::Error::Api(status))) if !matches!(status.code, 429 | 500..) => {
                            let why = status.message;
                            warn!(namespace, reason = told.reason, why, "an event is not taken");
                            break;
                        }
                        _ => tokio::time::sleep(pauses.failed()).await,
                    }
                }
            }
        }
    }
}

/// What is worth an event of a record that was `before` (none when it is new) and is `now`.
pub(super) fn news(before: Option<&PodCapture>, now: &PodCapture) -> Vec<Told> {
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
pub(super) fn pointless(capture: &Pointless) -> Told {
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

fn event(told: &Told, regarding: &ObjectReference, node: &str, now: Timestamp) -> Event {
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
    use super::{super::records::tests::record, *};

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

    #[test]
    fn what_waits_is_bounded() {
        let events = Events::new("node1", &Meters::default());
        for _ in 0..MOST_WAITING + 10 {
            events.tell(news(None, &record("web-12345", RunState::Refused)).remove(0));
        }
        assert_eq!(events.waiting().len(), MOST_WAITING);
    }
}
