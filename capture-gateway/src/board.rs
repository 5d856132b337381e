//! All PacketCaptures, and when the status of each is written: at once when something happened that people wait for,
//! but at most every two seconds; every ten seconds while only counters move; never when nothing has changed.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use capture_api::{PacketCaptureStatus, SpecRoom};
use jiff::Timestamp;

use crate::cache::Cache;
use crate::captures::{Capture, CaptureObject};
use crate::records::{Records, Request};
use crate::rules::Rules;
use crate::status::{self, ACCEPTED, CAPTURING, COMPLETED, Change, change, is_true};
use crate::uid::Uid;
use crate::write::Outcome;

/// How often a status is written at most when its state changes.
const STATE_EVERY: Duration = Duration::from_secs(2);
/// The same when only counters move.
const COUNTERS_EVERY: Duration = Duration::from_secs(10);
/// How often a capture is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long after a write that failed the next one is tried.
const RETRY: Duration = Duration::from_secs(5);
/// How long the watch gets to tell what a write conflicted with.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What the statuses follow from.
pub(crate) struct Facts<'a> {
    pub(crate) records: &'a Records,
    pub(crate) rules: &'a Rules,
}

/// A status to be written.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) uid: Uid,
    /// The UID as text.
    pub(crate) uid_text: String,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: String,
    pub(crate) resource_version: String,
    pub(crate) status: PacketCaptureStatus,
    pub(crate) change: Change,
}

/// A capture and its place in the order of writes.
#[derive(Debug)]
struct Entry {
    capture: Capture,
    /// Not looked at before.
    look_after: Instant,
    written: Option<Instant>,
    /// In one of the queues, or being written.
    busy: bool,
    /// When the window opens or closes next.
    edge: Option<Timestamp>,
}

/// All PacketCaptures.
#[derive(Debug, Default)]
pub(crate) struct Board {
    entries: Cache<Uid, Entry>,
    /// What their specs take.
    room: SpecRoom,
    /// Something has happened that may change their status.
    dirty: HashSet<Uid>,
    states: VecDeque<Uid>,
    counters: VecDeque<Uid>,
}

impl Board {
    /// A listing begins.
    pub(crate) fn list(&mut self) {
        self.entries.list();
    }

    /// The listing is complete. Gives the captures that are gone.
    pub(crate) fn listed(&mut self) -> Vec<Request> {
        let gone = self.entries.listed();
        gone.into_iter()
            .map(|(uid, entry)| {
                self.dirty.remove(&uid);
                self.room.give_back(&entry.capture.request.namespace, entry.capture.size);
                entry.capture.request
            })
            .collect()
    }

    /// Whether there was a complete listing.
    pub(crate) const fn is_complete(&self) -> bool {
        self.entries.is_complete()
    }

    /// A capture is there, or has changed.
    pub(crate) fn apply(&mut self, object: CaptureObject, now: Instant) {
        let Some(mut capture) = Capture::read(object) else { return };
        let uid = capture.request.uid;
        let before = self.entries.remove(&uid);
        if let Some(Entry { capture: before, .. }) = &before {
            self.room.give_back(&before.request.namespace, before.size);
        }
        if let Err(refusal) = self.room.take(&capture.request.namespace, capture.size) {
            (capture.spec, capture.size) = (Err(refusal), 0);
        }
        if !before.as_ref().is_some_and(|before| before.capture.says_the_same(&capture)) {
            self.dirty.insert(uid);
        }
        let entry = match before {
            Some(before) => Entry { capture, ..before },
            None => Entry { capture, look_after: now, written: None, busy: false, edge: None },
        };
        self.entries.insert(uid, entry);
    }

    /// A capture is gone.
    pub(crate) fn delete(&mut self, object: &CaptureObject) -> Option<Request> {
        let uid = Uid::parse(object.metadata.uid.as_deref()?)?;
        self.dirty.remove(&uid);
        let Capture { request, size, .. } = self.entries.remove(&uid)?.capture;
        self.room.give_back(&request.namespace, size);
        Some(request)
    }

    /// Whether this request is there. One of another namespace is another one.
    pub(crate) fn has(&self, request: &Request) -> bool {
        self.entries.get(&request.uid).is_some_and(|entry| entry.capture.request == *request)
    }

    /// Runs of a capture have changed.
    pub(crate) fn mark(&mut self, request: &Request) {
        if self.has(request) {
            self.dirty.insert(request.uid);
        }
    }

    /// Something has changed for the captures of one namespace, or of all.
    pub(crate) fn mark_all(&mut self, namespace: Option<&str>) {
        let concerned =
            |entry: &Entry| namespace.is_none_or(|name| *entry.capture.request.namespace == *name);
        let uids = self.entries.iter().filter(|(_, entry)| concerned(entry)).map(|(uid, _)| *uid);
        self.dirty.extend(uids.collect::<Vec<_>>());
    }

    /// Windows that have opened or closed.
    pub(crate) fn mark_edges(&mut self, utc: Timestamp) {
        for entry in self.entries.values_mut() {
            if entry.edge.is_some_and(|edge| edge <= utc) {
                entry.edge = None;
                self.dirty.insert(entry.capture.request.uid);
            }
        }
    }

    /// Forgets what was to be written: another gateway does that. What is under way is waited for.
    pub(crate) fn stand_down(&mut self) {
        for uid in self.states.drain(..).chain(self.counters.drain(..)) {
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.busy = false;
            }
        }
    }

    /// Looks at what has changed and puts it in line.
    pub(crate) fn look(&mut self, facts: &Facts<'_>, now: Instant, utc: Timestamp) {
        let due: Vec<Uid> = self.dirty.iter().copied().collect();
        for uid in due {
            let Some(entry) = self.entries.get_mut(&uid) else {
                self.dirty.remove(&uid);
                continue;
            };
            if entry.busy || entry.look_after > now {
                continue;
            }
            self.dirty.remove(&uid);
            let status = entry.work_out(facts, utc);
            let Some(change) = change(&entry.capture.status, &status) else {
                entry.look_after = now + LOOK_EVERY;
                continue;
            };
            let (queue, every) = match change {
                Change::State => (&mut self.states, STATE_EVERY),
                Change::Counters => (&mut self.counters, COUNTERS_EVERY),
            };
            let from = entry.written.map_or(now, |written| written + every);
            if from > now {
                // A state that changes meanwhile does not wait for the counters' turn.
                entry.look_after = from.min(now + STATE_EVERY);
                self.dirty.insert(uid);
            } else {
                entry.busy = true;
                queue.push_back(uid);
            }
        }
    }

    /// The next status to write, as it is now. States go before counters.
    pub(crate) fn next(&mut self, facts: &Facts<'_>, utc: Timestamp) -> Option<Write> {
        while let Some(uid) = self.states.pop_front().or_else(|| self.counters.pop_front()) {
            let Some(entry) = self.entries.get_mut(&uid) else { continue };
            let status = entry.work_out(facts, utc);
            let capture = &entry.capture;
            let Some(change) = change(&capture.status, &status) else {
                entry.busy = false;
                continue;
            };
            return Some(Write {
                uid,
                uid_text: capture.uid.clone(),
                namespace: capture.request.namespace.clone(),
                name: capture.name.clone(),
                resource_version: capture.resource_version.clone(),
                status,
                change,
            });
        }
        None
    }

    /// A write is over; `now_version` is the capture's version after one that worked.
    pub(crate) fn written(
        &mut self,
        write: Write,
        outcome: Outcome,
        now_version: Option<String>,
        now: Instant,
    ) {
        let Some(entry) = self.entries.get_mut(&write.uid) else { return };
        entry.busy = false;
        entry.look_after = now
            + match outcome {
                Outcome::Done => Duration::ZERO,
                Outcome::Conflict => CATCH_UP,
                Outcome::Gone | Outcome::Failed => RETRY,
            };
        match outcome {
            Outcome::Done => {
                entry.written = Some(now);
                // When the watch has told of a newer version meanwhile, that one is the truth.
                if entry.capture.resource_version == write.resource_version {
                    entry.capture.status = write.status;
                    entry.capture.resource_version = now_version.unwrap_or_default();
                }
            }
            Outcome::Gone => return,
            Outcome::Conflict | Outcome::Failed => {}
        }
        self.dirty.insert(write.uid);
    }

    /// How many wait to be written.
    pub(crate) fn waiting(&self) -> usize {
        self.states.len() + self.counters.len()
    }

    /// How many captures are refused, waiting, capturing and completed, by what their status says.
    pub(crate) fn by_state(&self) -> [(&'static str, i64); 4] {
        let mut counts = [("refused", 0), ("waiting", 0), ("capturing", 0), ("completed", 0)];
        for (_, entry) in self.entries.iter() {
            let conditions = &entry.capture.status.conditions;
            let state = if is_true(conditions, COMPLETED) {
                3
            } else if is_true(conditions, CAPTURING) {
                2
            } else if status::find(conditions, ACCEPTED).is_some_and(|condition| condition.status == "False")
            {
                0
            } else {
                1
            };
            counts[state].1 += 1;
        }
        counts
    }
}

impl Entry {
    fn work_out(&mut self, facts: &Facts<'_>, utc: Timestamp) -> PacketCaptureStatus {
        let judgement =
            self.capture.judge(facts.rules.caps(&self.capture.request.namespace), &facts.rules.agents);
        let sums = facts.records.sums(&self.capture.request);
        self.edge = status::next_edge(&judgement, self.capture.created, utc);
        status::status(&self.capture, &judgement, &sums, utc)
    }
}

#[cfg(test)]
mod tests;
