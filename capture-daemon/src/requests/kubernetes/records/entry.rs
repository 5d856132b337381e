//! One record: what it should be, what the server holds, and the step that makes the one the other.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use capture_api::PodCapture;
use serde_json::{Value, json};

use super::{
    super::{
        objects::{Name, WatchedRecord},
        pace::{Pauses, seed},
    },
    object::{Shown, at_once, created, difference, is_final, shown},
};

/// How long a record waits that the server did not take.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How often the counters of one record are written.
const COUNTERS: Duration = Duration::from_secs(10);
/// What is added to it, by record.
const JITTER: Duration = Duration::from_secs(2);

/// One record.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it should be.
    pub(super) wanted: Wanted,
    /// What the server holds.
    pub(super) held: Held,
    /// When to write; none when nothing is to be written.
    pub(super) due: Option<Instant>,
    /// Somebody waits for it.
    pub(super) urgent: bool,
    /// While the server does not take it.
    pub(super) pauses: Pauses,
}

/// What a record should be.
#[derive(Debug)]
pub(super) enum Wanted {
    /// As in this one.
    Record(Box<PodCapture>),
    /// As it is: of a run that is over, and whose record has this hash.
    Settled(u64),
    /// Not there.
    Nothing,
}

/// What the server holds.
#[derive(Debug)]
pub(super) enum Held {
    /// None.
    Absent,
    /// Somebody deleted it when its run was over; it is not made again.
    Deleted,
    /// One of this UID, and what it holds is not known.
    Unread(Option<String>),
    /// This.
    Known { uid: String, shown: Shown },
}

/// One write, or one question.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Read,
    Create { object: Value, shown: Shown },
    Patch { patch: Value, spec: Value },
    PatchStatus { patch: Value, status: Value },
    Delete { uid: Option<String> },
}

/// How a step went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server holds this now; nothing after a deletion.
    Done(Option<Box<WatchedRecord>>),
    /// 404.
    Missing,
    /// 409: it exists already, or is another of the same name.
    Conflict,
    /// The server will not have it.
    Refused(String),
    /// The server cannot do it, or does not answer: this one or its namespace may be why.
    Failed(String),
    /// The server has too much to do, and is given a pause.
    Busy,
    /// There is no server; it is given a pause.
    Away,
}

impl Entry {
    /// Of something that the server may hold and nobody wants.
    pub(super) fn new(name: &Name) -> Self {
        let pauses = Pauses::new(REFUSED.0, REFUSED.1, seed(&name.name));
        Self { wanted: Wanted::Nothing, held: Held::Absent, due: None, urgent: false, pauses }
    }

    /// It should be so. Returns what it should have been before, unless its run was over or it is new.
    pub(super) fn publish(&mut self, record: &PodCapture, now: Instant) -> Option<Box<PodCapture>> {
        if let Wanted::Settled(hash) = self.wanted
            && hash == hash_of(record)
        {
            return None;
        }
        let before = std::mem::replace(&mut self.wanted, Wanted::Record(Box::new(record.clone())));
        let before = match before {
            Wanted::Record(before) => Some(before),
            Wanted::Settled(_) | Wanted::Nothing => None,
        };
        match &before {
            Some(before) if before.spec == record.spec && before.status == record.status => {}
            Some(before) if at_once(before) == at_once(record) => {
                let counters = now + self.counters();
                self.due.get_or_insert(counters);
            }
            _ => {
                self.urgent = true;
                // One that the server refuses keeps its pause.
                if self.due.is_none() || self.pauses.idle() {
                    self.due = Some(now);
                }
            }
        }
        before
    }

    /// What is to be done to have the server hold what it should.
    pub(super) fn step(&self) -> Option<Step> {
        let record = match (&self.wanted, &self.held) {
            (Wanted::Nothing, Held::Known { uid, .. }) => {
                return Some(Step::Delete { uid: Some(uid.clone()) });
            }
            (Wanted::Nothing, Held::Unread(uid)) => return Some(Step::Delete { uid: uid.clone() }),
            (Wanted::Nothing | Wanted::Settled(_), _) | (_, Held::Deleted) => return None,
            (Wanted::Record(record), _) => record,
        };
        let wanted = shown(record);
        match &self.held {
            Held::Absent => Some(Step::Create { object: created(record, &wanted), shown: wanted }),
            Held::Unread(_) => Some(Step::Read),
            Held::Known { uid, shown } => {
                // The server compares the UID: never into another object of the same name.
                let guarded = |part: &str, patch: Value| json!({"metadata": {"uid": uid}, part: patch});
                if let Some(patch) = difference(&shown.spec, &wanted.spec) {
                    return Some(Step::Patch { patch: guarded("spec", patch), spec: wanted.spec });
                }
                let patch = difference(&shown.status, &wanted.status)?;
                Some(Step::PatchStatus { patch: guarded("status", patch), status: wanted.status })
            }
            Held::Deleted => None,
        }
    }

    /// Whether its namespace is the one that its run was in, as `in_namespace` tells by name and UID.
    pub(super) fn belongs(&self, in_namespace: &impl Fn(&str, &str) -> bool) -> bool {
        let Wanted::Record(record) = &self.wanted else { return true };
        in_namespace(record.metadata.namespace.as_deref().unwrap_or_default(), &record.spec.namespace_uid)
    }

    /// Whether the object is this run's record.
    pub(super) fn is(&self, object: &WatchedRecord, node: &str) -> bool {
        let Wanted::Record(record) = &self.wanted else { return false };
        object.spec["node"] == node && object.spec["podUID"] == record.spec.pod_uid
    }

    /// The object is its own, as it is.
    pub(super) fn adopt(&mut self, object: WatchedRecord) {
        let WatchedRecord { metadata, spec, status } = object;
        let status = if status.is_null() { json!({}) } else { status };
        self.held = Held::Known { uid: metadata.uid.unwrap_or_default(), shown: Shown { spec, status } };
    }

    /// The server does not hold it any more. Of a run that goes on it is made again.
    pub(super) fn gone(&mut self) {
        let over = match &self.wanted {
            Wanted::Record(record) => is_final(record),
            Wanted::Settled(_) => true,
            Wanted::Nothing => false,
        };
        self.held = if over { Held::Deleted } else { Held::Absent };
    }

    /// Nothing is to be written: of what is over little is kept.
    pub(super) fn rest(&mut self) {
        (self.due, self.urgent) = (None, false);
        if let Wanted::Record(record) = &self.wanted
            && is_final(record)
        {
            self.wanted = Wanted::Settled(hash_of(record));
            if let Held::Known { uid, .. } = &self.held {
                self.held = Held::Unread(Some(uid.clone()));
            }
        }
    }

    /// The server does not take it: it is tried again later.
    pub(super) fn refused(&mut self, now: Instant) {
        self.due = Some(now + self.pauses.failed());
    }

    /// The UID of what the server holds.
    pub(super) fn uid(&self) -> Option<&str> {
        match &self.held {
            Held::Known { uid, .. } => Some(uid),
            Held::Unread(uid) => uid.as_deref(),
            Held::Absent | Held::Deleted => None,
        }
    }

    /// How long its counters wait to be written.
    pub(super) fn counters(&self) -> Duration {
        COUNTERS + self.pauses.share(JITTER)
    }
}

impl Step {
    /// As the API calls it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Read => "get",
            Self::Create { .. } => "create",
            Self::Patch { .. } => "patch",
            Self::PatchStatus { .. } => "patch status",
            Self::Delete { .. } => "delete",
        }
    }
}

/// Of a record whose run is over.
fn hash_of(record: &PodCapture) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(record).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
