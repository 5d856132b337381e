//! Events of the API server (`kubectl describe`, `kubectl get events`), on the pod and on the PacketCapture: a run began,
//! ended, was refused, or lost packets. They are told once and kept nowhere: records say the same, and stay.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use capture_api::{PodCapture, PodCaptureStatus, Refusal, RunState};
use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::{
    pace::{Pace, Pauses, Turns, seed},
    store::{NamespaceUids, Pointless},
};
use crate::{
    session::wanted::Wanted,
    telemetry::{ApiObject, Meters},
};

/// The most events at once, and how many follow: ten in any ten seconds.
const PACE: (usize, Duration) = (10, Duration::from_secs(10));
/// The most that wait of one namespace, and of all; beyond, the newest are left out.
const MOST_WAITING: (usize, usize) = (64, 1024);
/// So often one is tried that the server fails to take.
const TRIES: u32 = 3;
/// How long a namespace waits for which the server fails, at first and at last.
const FAILED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
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
    waiting: Mutex<Waiting>,
    wake: Notify,
    meters: Meters,
}

/// What waits, by namespace: they take turns, so that one of whom there is much to tell keeps no other waiting.
#[derive(Debug, Default)]
struct Waiting {
    lines: BTreeMap<String, Line>,
    turns: Turns,
}

/// What waits of one namespace.
#[derive(Debug, Default)]
struct Line {
    events: VecDeque<One>,
    /// The server has failed for the namespace so often in a row.
    failures: u32,
    /// Nothing of it is told before.
    until: Option<Instant>,
}

/// An event that concerns one object, and how often it was tried in vain.
#[derive(Debug)]
struct One {
    told: Told,
    regarding: ObjectReference,
    tries: u32,
}

impl Waiting {
    fn len(&self) -> usize {
        self.lines.values().map(|line| line.events.len()).sum()
    }

    /// False when there is no room.
    fn put(&mut self, namespace: &str, one: One) -> bool {
        if self.len() >= MOST_WAITING.1 {
            return false;
        }
        let line = self.lines.entry(namespace.to_owned()).or_default();
        let room = line.events.len() < MOST_WAITING.0;
        if room {
            line.events.push_back(one);
        }
        room
    }

    /// When one can be told next.
    fn due(&self, now: Instant) -> Option<Instant> {
        let lines = self.lines.values().filter(|line| !line.events.is_empty());
        lines.map(|line| line.until.unwrap_or(now)).min()
    }

    /// The next one, and its namespace.
    fn next(&mut self, now: Instant) -> Option<(String, One)> {
        self.lines.retain(|_, line| !line.events.is_empty() || line.until.is_some_and(|until| until > now));
        let turns = &self.turns;
        let free = self.lines.iter_mut().filter(|(_, line)| line.until.is_none_or(|until| until <= now));
        let filled = free.filter(|(_, line)| !line.events.is_empty());
        let (namespace, line) = filled.min_by_key(|(namespace, _)| turns.last(namespace))?;
        let one = line.events.pop_front()?;
        let namespace = namespace.clone();
        self.turns.take(&namespace);
        Some((namespace, one))
    }

    /// It was not taken, and is tried again.
    fn again(&mut self, namespace: String, one: One, now: Instant) {
        let line = self.lines.entry(namespace).or_default();
        line.failed(now);
        line.events.push_front(one);
    }

    /// It is not tried again.
    fn given_up(&mut self, namespace: String, now: Instant) {
        self.lines.entry(namespace).or_default().failed(now);
    }

    fn taken(&mut self, namespace: &str) {
        if let Some(line) = self.lines.get_mut(namespace) {
            (line.failures, line.until) = (0, None);
        }
    }
}

impl Line {
    fn failed(&mut self, now: Instant) {
        let pause = FAILED.0.saturating_mul(1 << self.failures.min(8)).min(FAILED.1);
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
    }
}

impl Events {
    pub(super) fn new(node: &str, meters: &Meters) -> Self {
        Self { node: node.to_owned(), waiting: Mutex::default(), wake: Notify::new(), meters: meters.clone() }
    }

    /// Has it told soon, if there is room.
    pub(super) fn tell(&self, told: Told) {
        let mut waiting = self.waiting();
        for regarding in told.regarding.clone() {
            let namespace = regarding.namespace.clone().unwrap_or_default();
            if !waiting.put(&namespace, One { told: told.clone(), regarding, tries: 0 }) {
                debug!(namespace, reason = told.reason, "an event is left out: too many wait");
            }
        }
        drop(waiting);
        self.wake.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells them, until it is dropped.
    pub(super) async fn run(self: Arc<Self>, client: Client, namespaces: NamespaceUids) {
        let mut pace = Pace::new(PACE.0, PACE.1);
        let mut pauses = Pauses::new(PAUSES.0, PAUSES.1, seed(&self.node));
        loop {
            let now = Instant::now();
            let next = self.waiting().next(now);
            let Some((namespace, mut one)) = next else {
                let due = self.waiting().due(now);
                let until = due.unwrap_or_else(|| now + Duration::from_secs(3600));
                // In vain or not, it is looked again.
                let _ = tokio::time::timeout_at(until.into(), self.wake.notified()).await;
                continue;
            };
            let known = namespaces.lock().unwrap_or_else(PoisonError::into_inner).get(&namespace).cloned();
            let told = &one.told;
            if known.is_none() || told.namespace_uid.as_ref().is_some_and(|uid| known.as_ref() != Some(uid)) {
                continue;
            }
            let event = event(told, &one.regarding, &self.node, Timestamp::now());
            let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
            tokio::time::sleep_until(pace.free_at(Instant::now()).into()).await;
            pace.count(Instant::now());
            let params = PostParams::default();
            let answer = tokio::time::timeout(PATIENCE, api.create(&params, &event)).await;
            self.meters.api_write(ApiObject::Event, matches!(answer, Ok(Ok(_))));
            let reason = &one.told.reason;
            let why = match answer {
                Ok(Ok(_)) => {
                    pauses.reset();
                    self.waiting().taken(&namespace);
                    continue;
                }
                Ok(Err(kube::Error::Api(status))) => match status.code {
                    // A namespace that is going away takes no events.
                    _ if status.code == 404 || status.message.contains("being terminated") => {
                        debug!(namespace, reason, "an event is not taken");
                        continue;
                    }
                    408 | 429 | 503 => {
                        self.waiting().again(namespace, one, Instant::now());
                        tokio::time::sleep(pauses.failed()).await;
                        continue;
                    }
                    500.. => status.message.clone(),
                    _ => {
                        warn!(namespace, reason, why = status.message, "an event is not taken");
                        continue;
                    }
                },
                Ok(Err(_)) => {
                    // There is no server.
                    self.waiting().again(namespace, one, Instant::now());
                    tokio::time::sleep(pauses.failed()).await;
                    continue;
                }
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            one.tries += 1;
            if one.tries < TRIES {
                self.waiting().again(namespace, one, Instant::now());
            } else {
                warn!(namespace, reason, why, "the API server fails to take an event; it is given up");
                self.waiting().given_up(namespace, Instant::now());
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

/// A run that was refused and has no record, since its namespace has so many of these already.
pub(super) fn turned_away(wanted: &Wanted, refusal: &Refusal, node: &str) -> Told {
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

    fn refused(namespace: &str) -> Told {
        let mut told = news(None, &record("web-12345", RunState::Refused)).remove(0);
        told.regarding.truncate(1);
        told.regarding[0].namespace = Some(namespace.to_owned());
        told
    }

    #[test]
    fn what_waits_is_bounded_and_one_namespace_keeps_no_other_waiting() {
        let events = Events::new("node1", &Meters::default());
        for _ in 0..500 {
            events.tell(refused("team-a"));
        }
        events.tell(refused("team-b"));
        let mut waiting = events.waiting();
        assert_eq!(waiting.len(), MOST_WAITING.0 + 1);
        let now = Instant::now();
        let told: Vec<String> = (0..3).map(|_| waiting.next(now).unwrap().0).collect();
        assert_eq!(told, ["team-a", "team-b", "team-a"]);
        for number in 0..100 {
            for _ in 0..50 {
                let one = One { told: refused("x"), regarding: ObjectReference::default(), tries: 0 };
                waiting.put(&format!("team-{number}"), one);
            }
        }
        assert_eq!(waiting.len(), MOST_WAITING.1);
    }

    #[test]
    fn a_namespace_for_which_the_server_fails_waits_longer_and_longer_and_others_go_on() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let one = || One { told: refused("x"), regarding: ObjectReference::default(), tries: 0 };
        waiting.put("team-a", one());
        waiting.put("team-b", one());
        waiting.put("team-b", one());
        let (team_a, failed) = waiting.next(now).unwrap();
        waiting.again(team_a, failed, now);
        for _ in 0..2 {
            assert_eq!(waiting.next(now).unwrap().0, "team-b");
        }
        assert!(waiting.next(now).is_none());
        assert_eq!(waiting.due(now), Some(now + FAILED.0));
        let (team_a, _) = waiting.next(now + FAILED.0).unwrap();
        waiting.given_up(team_a, now);
        waiting.put("team-a", one());
        assert_eq!(waiting.due(now), Some(now + 2 * FAILED.0));
        waiting.taken("team-a");
        assert_eq!(waiting.due(now), Some(now));
        assert!(waiting.next(now).is_some() && waiting.due(now).is_none());
    }
}
