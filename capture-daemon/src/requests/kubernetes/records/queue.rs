//! What is to be written of records, and when: each record once however often it changes, states before counters.
//!
//! Namespaces take turns, and each has one write under way at most: one that changes a lot, or whose writes fail or hang
//! because of a webhook of its own, holds up no other. Nothing here waits or asks; it is told what records should be, what
//! the server holds and how writes went.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use capture_api::PodCapture;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use tracing::warn;

use super::{
    super::{
        objects::{Name, WatchedRecord},
        pace::{Pauses, Turns, seed},
    },
    object::{Shown, at_once, created, difference, is_final, shown},
};

/// How often the counters of one record are written.
const COUNTERS: Duration = Duration::from_secs(10);
/// What is added to it, by record.
const JITTER: Duration = Duration::from_secs(2);
/// How long a record waits that the server did not take.
const REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How long one waits at most, or a namespace, for which the server fails.
const FAILED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// So many failures in a row, and the namespace waits.
const FAILURES: u32 = 3;
/// So many states are written while counters wait, then one of these.
const STATES_IN_A_ROW: u32 = 4;
/// How soon a record is looked at again whose namespace is not there.
const NO_NAMESPACE: Duration = Duration::from_secs(5);

/// The records of this node.
#[derive(Debug)]
pub(super) struct Queue {
    node: String,
    entries: BTreeMap<Name, Entry>,
    /// Those that the list under way has named so far.
    naming: BTreeSet<Name>,
    listed: bool,
    turns: Turns,
    /// States that were written while counters waited.
    states: u32,
    /// Namespaces that have a write under way.
    busy: HashSet<String>,
    /// Namespaces for which the server has failed lately.
    troubles: HashMap<String, Trouble>,
}

/// The server fails for a namespace.
#[derive(Debug)]
struct Trouble {
    in_a_row: u32,
    pauses: Pauses,
    /// Nothing is written there before.
    until: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    held: Held,
    /// When to write; none when nothing is to be written.
    due: Option<Instant>,
    urgent: bool,
    pauses: Pauses,
}

/// What a record should be.
#[derive(Debug)]
enum Wanted {
    /// As in this one.
    Record(Box<PodCapture>),
    /// As it is: of a run that is over, and whose record has this hash.
    Settled(u64),
    /// Not there.
    Nothing,
}

/// What the server holds.
#[derive(Debug)]
enum Held {
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

impl Queue {
    pub(super) fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            entries: BTreeMap::new(),
            naming: BTreeSet::new(),
            listed: false,
            turns: Turns::default(),
            states: 0,
            busy: HashSet::new(),
            troubles: HashMap::new(),
        }
    }

    /// The record should be so. Returns how it was told before, unless its run was over or it is new.
    pub(super) fn publish(&mut self, record: &PodCapture, now: Instant) -> Option<Box<PodCapture>> {
        let name = Name::of(&record.metadata);
        let entry = self.entries.entry(name).or_insert_with_key(Entry::new);
        if let Wanted::Settled(hash) = entry.wanted
            && hash == hash_of(record)
        {
            return None;
        }
        let before = std::mem::replace(&mut entry.wanted, Wanted::Record(Box::new(record.clone())));
        let before = match before {
            Wanted::Record(before) => Some(before),
            Wanted::Settled(_) | Wanted::Nothing => None,
        };
        match &before {
            Some(before) if before.spec == record.spec && before.status == record.status => {}
            Some(before) if at_once(before) == at_once(record) => {
                let counters = now + COUNTERS + entry.jitter();
                entry.due.get_or_insert(counters);
            }
            _ => {
                entry.urgent = true;
                // One that the server refuses keeps its pause.
                if entry.due.is_none() || entry.pauses.idle() {
                    entry.due = Some(now);
                }
            }
        }
        before
    }

    /// The record should not be there.
    pub(super) fn remove(&mut self, name: Name, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.wanted = Wanted::Nothing;
            (entry.due, entry.urgent) = (Some(now), false);
        }
    }

    /// When something is to be written next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.entries
            .iter()
            .filter_map(|(name, entry)| self.free(name, entry.due?))
            .min()
            .filter(|_| self.listed)
    }

    /// When that record may be written that is due then; none while another of its namespace is under way.
    fn free(&self, name: &Name, due: Instant) -> Option<Instant> {
        if self.busy.contains(&name.namespace) {
            return None;
        }
        let until = self.troubles.get(&name.namespace).and_then(|trouble| trouble.until);
        Some(until.map_or(due, |until| due.max(until)))
    }

    /// The next step, if one is due; nothing else of its namespace is until it is [`done`](Self::done). `in_namespace` says
    /// whether the namespace of that name has that UID.
    pub(super) fn next(
        &mut self,
        now: Instant,
        in_namespace: impl Fn(&str, &str) -> bool,
    ) -> Option<(Name, Step)> {
        if !self.listed {
            return None;
        }
        loop {
            let ready = |name: &Name, entry: &Entry| entry.due.and_then(|due| self.free(name, due));
            let due =
                || self.entries.iter().filter(|(name, entry)| ready(name, entry).is_some_and(|at| at <= now));
            let counters_wait = due().any(|(_, entry)| !entry.urgent);
            let states_first = !(counters_wait && self.states >= STATES_IN_A_ROW);
            let (name, _) = due().min_by_key(|(name, entry)| {
                (entry.urgent != states_first, self.turns.last(&name.namespace), entry.due)
            })?;
            let name = name.clone();
            let entry = self.entries.get_mut(&name)?;
            match entry.step() {
                Some(Step::Create { object, .. }) if !entry.belongs(&in_namespace) => {
                    entry.due = Some(now + NO_NAMESPACE);
                    entry.urgent = false;
                    drop(object);
                }
                Some(step) => {
                    self.states = if entry.urgent && counters_wait { self.states + 1 } else { 0 };
                    self.turns.take(&name.namespace);
                    self.busy.insert(name.namespace.clone());
                    return Some((name, step));
                }
                None => self.rest(&name),
            }
        }
    }

    /// A step is done.
    pub(super) fn done(&mut self, name: &Name, step: Step, outcome: Outcome, now: Instant) {
        self.busy.remove(&name.namespace);
        match &outcome {
            Outcome::Failed(why) => self.trouble(name, why, now),
            Outcome::Busy | Outcome::Away => {}
            _ => drop(self.troubles.remove(&name.namespace)),
        }
        let Some(entry) = self.entries.get_mut(name) else { return };
        match (step, outcome) {
            (_, Outcome::Away) => return,
            (_, Outcome::Busy) => {
                // Another one is tried next: it may be this one that the server is said to be too busy for.
                entry.due = Some(now + FAILED.0);
                return;
            }
            (_, Outcome::Failed(_)) => {
                entry.due = Some(now + entry.pauses.failed().min(FAILED.1));
                return;
            }
            (step, Outcome::Refused(why)) => {
                if entry.pauses.idle() {
                    let (namespace, record) = (&name.namespace, &name.name);
                    warn!(
                        namespace,
                        record,
                        step = step.name(),
                        why,
                        "the API server does not take a record; trying on"
                    );
                }
                return entry.refused(now);
            }
            (Step::Delete { .. }, Outcome::Done(_) | Outcome::Missing) => {
                entry.held = Held::Absent;
                if matches!(entry.wanted, Wanted::Nothing) {
                    self.entries.remove(name);
                    return;
                }
            }
            // Its namespace is gone, or the definition is.
            (Step::Create { .. }, Outcome::Missing) => return entry.refused(now),
            (_, Outcome::Missing) => entry.gone(),
            (Step::Create { .. }, Outcome::Conflict) => entry.held = Held::Unread(None),
            (_, Outcome::Conflict) => {
                entry.held = Held::Unread(None);
                return entry.refused(now);
            }
            (Step::Read, Outcome::Done(object)) => match object {
                Some(object) if entry.is(&object, &self.node) => entry.adopt(*object),
                _ => {
                    if entry.pauses.idle() {
                        warn!(
                            namespace = name.namespace,
                            record = name.name,
                            "another's record has this name"
                        );
                    }
                    return entry.refused(now);
                }
            },
            (Step::Create { shown, .. }, Outcome::Done(object)) => {
                let uid = object.and_then(|object| object.metadata.uid).unwrap_or_default();
                entry.held = Held::Known { uid, shown: Shown { status: json!({}), ..shown } };
            }
            (Step::Patch { spec, .. }, Outcome::Done(_)) => {
                if let Held::Known { shown, .. } = &mut entry.held {
                    shown.spec = spec;
                }
            }
            (Step::PatchStatus { status, .. }, Outcome::Done(_)) => {
                if let Held::Known { shown, .. } = &mut entry.held {
                    shown.status = status;
                }
                entry.pauses.reset();
                if entry.step().is_none() {
                    return self.rest(name);
                }
                // It has changed meanwhile.
                let wait = if entry.urgent { Duration::ZERO } else { COUNTERS + entry.jitter() };
                entry.due = Some(now + wait);
                return;
            }
        }
        entry.due = Some(now);
    }

    /// The server failed for that record.
    fn trouble(&mut self, name: &Name, why: &str, now: Instant) {
        let Name { namespace, name: record } = name;
        let trouble = self.troubles.entry(namespace.clone()).or_insert_with(|| Trouble {
            in_a_row: 0,
            pauses: Pauses::new(FAILED.0, FAILED.1, seed(namespace)),
            until: None,
        });
        trouble.in_a_row += 1;
        if trouble.in_a_row == 1 {
            warn!(namespace, record, why, "the API server fails to take a record; trying on");
        }
        if trouble.in_a_row >= FAILURES {
            trouble.until = Some(now + trouble.pauses.failed());
        }
    }

    /// The status that was last taken for writing is under way: what comes from now on is another change.
    pub(super) fn taken(&mut self, name: &Name) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.urgent = false;
        }
    }

    /// News of the records that the server holds for this node.
    pub(super) fn take(&mut self, news: Event<WatchedRecord>, now: Instant) {
        match news {
            Event::Init => self.naming.clear(),
            Event::InitApply(object) => {
                let name = Name::of(&object.metadata);
                self.naming.insert(name.clone());
                let entry = self.entries.entry(name).or_insert_with_key(Entry::new);
                match &entry.held {
                    Held::Known { uid, .. } if Some(uid) == object.metadata.uid.as_ref() => {}
                    _ if matches!(entry.wanted, Wanted::Record(_)) && entry.is(&object, &self.node) => {
                        entry.adopt(object);
                        entry.due = Some(now);
                    }
                    // A run that is not there any more, or a record that is not the run's.
                    _ => {
                        entry.held = Held::Unread(object.metadata.uid);
                        if !matches!(entry.wanted, Wanted::Settled(_)) {
                            entry.due.get_or_insert(now);
                        }
                    }
                }
            }
            Event::InitDone => {
                self.listed = true;
                for (name, entry) in &mut self.entries {
                    let there = matches!(entry.held, Held::Known { .. } | Held::Unread(_));
                    if there && !self.naming.contains(name) {
                        entry.gone();
                        entry.due.get_or_insert(now);
                    }
                }
                self.naming.clear();
            }
            Event::Apply(_) => {}
            Event::Delete(object) => {
                if let Some(entry) = self.entries.get_mut(&Name::of(&object.metadata))
                    && entry.uid().is_some_and(|uid| object.metadata.uid.as_deref() == Some(uid))
                {
                    entry.gone();
                    entry.due.get_or_insert(now);
                }
            }
        }
    }

    /// Nothing is to be written: of what is over little is kept.
    fn rest(&mut self, name: &Name) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        (entry.due, entry.urgent) = (None, false);
        match &entry.wanted {
            Wanted::Nothing => {
                self.entries.remove(name);
            }
            Wanted::Record(record) if is_final(record) => {
                entry.wanted = Wanted::Settled(hash_of(record));
                if let Held::Known { uid, .. } = &entry.held {
                    entry.held = Held::Unread(Some(uid.clone()));
                }
            }
            _ => {}
        }
    }
}

impl Step {
    fn name(&self) -> &'static str {
        match self {
            Self::Read => "get",
            Self::Create { .. } => "create",
            Self::Patch { .. } => "patch",
            Self::PatchStatus { .. } => "patch status",
            Self::Delete { .. } => "delete",
        }
    }
}

impl Entry {
    /// Of something that the server may hold and nobody wants.
    fn new(name: &Name) -> Self {
        let pauses = Pauses::new(REFUSED.0, REFUSED.1, seed(&name.name));
        Self { wanted: Wanted::Nothing, held: Held::Absent, due: None, urgent: false, pauses }
    }

    fn step(&self) -> Option<Step> {
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

    fn belongs(&self, in_namespace: &impl Fn(&str, &str) -> bool) -> bool {
        let Wanted::Record(record) = &self.wanted else { return true };
        in_namespace(record.metadata.namespace.as_deref().unwrap_or_default(), &record.spec.namespace_uid)
    }

    /// Whether the object is this run's record.
    fn is(&self, object: &WatchedRecord, node: &str) -> bool {
        let Wanted::Record(record) = &self.wanted else { return false };
        object.spec["node"] == node && object.spec["podUID"] == record.spec.pod_uid
    }

    fn adopt(&mut self, object: WatchedRecord) {
        let WatchedRecord { metadata, spec, status } = object;
        let status = if status.is_null() { json!({}) } else { status };
        self.held = Held::Known { uid: metadata.uid.unwrap_or_default(), shown: Shown { spec, status } };
    }

    /// The server does not hold it any more. Of a run that goes on it is made again.
    fn gone(&mut self) {
        let over = match &self.wanted {
            Wanted::Record(record) => is_final(record),
            Wanted::Settled(_) => true,
            Wanted::Nothing => false,
        };
        self.held = if over { Held::Deleted } else { Held::Absent };
    }

    fn refused(&mut self, now: Instant) {
        self.due = Some(now + self.pauses.failed());
    }

    fn uid(&self) -> Option<&str> {
        match &self.held {
            Held::Known { uid, .. } => Some(uid),
            Held::Unread(uid) => uid.as_deref(),
            Held::Absent | Held::Deleted => None,
        }
    }

    fn jitter(&self) -> Duration {
        self.pauses.share(JITTER)
    }
}

/// Of a record whose run is over.
fn hash_of(record: &PodCapture) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(record).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
