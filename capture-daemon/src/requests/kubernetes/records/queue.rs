//! What is to be written of records, and when: each record once however often it changes, states before counters.
//!
//! Namespaces take turns, and each has one write under way at most: one that changes a lot, or whose writes fail or hang
//! because of a webhook of its own, holds up no other. Nothing here waits or asks; it is told what records should be, what
//! the server holds and how writes went.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use capture_api::PodCapture;
use kube::runtime::watcher::Event;
use serde_json::json;
use tracing::warn;

use super::{
    super::{
        objects::{Name, WatchedRecord},
        pace::{Pauses, Turns, seed},
    },
    entry::{Entry, Held, Outcome, Step, Wanted},
    object::Shown,
};

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
        self.entries.entry(name).or_insert_with_key(Entry::new).publish(record, now)
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
                let wait = if entry.urgent { Duration::ZERO } else { entry.counters() };
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
        if matches!(entry.wanted, Wanted::Nothing) {
            self.entries.remove(name);
        } else {
            entry.rest();
        }
    }
}

#[cfg(test)]
mod tests;
