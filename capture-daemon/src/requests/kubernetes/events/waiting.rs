//! Events that wait to be told, in a line a namespace: one of which there is much to tell, or for which the server fails,
//! keeps no other waiting.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;

use super::told::Told;
use crate::requests::kubernetes::pace::{Pauses, Turns, seed};

/// The most that wait of one namespace, and of all; beyond, the newest are left out.
const MOST_WAITING: (usize, usize) = (64, 1024);
/// How long a namespace waits for which the server fails, at first and at last.
const FAILED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// What waits, by namespace: they take turns, so that one of whom there is much to tell keeps no other waiting.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    lines: BTreeMap<String, Line>,
    turns: Turns,
}

/// What waits of one namespace.
#[derive(Debug)]
struct Line {
    events: VecDeque<One>,
    /// While the server fails for the namespace.
    pauses: Pauses,
    /// Nothing of it is told before.
    until: Option<Instant>,
}

/// An event that concerns one object, and how often it was tried in vain.
#[derive(Debug)]
pub(super) struct One {
    pub(super) told: Told,
    pub(super) regarding: ObjectReference,
    pub(super) tries: u32,
}

impl Waiting {
    fn len(&self) -> usize {
        self.lines.values().map(|line| line.events.len()).sum()
    }

    fn line(&mut self, namespace: &str) -> &mut Line {
        self.lines.entry(namespace.to_owned()).or_insert_with(|| Line::new(namespace))
    }

    /// False when there is no room.
    pub(super) fn put(&mut self, namespace: &str, one: One) -> bool {
        if self.len() >= MOST_WAITING.1 {
            return false;
        }
        let line = self.line(namespace);
        let room = line.events.len() < MOST_WAITING.0;
        if room {
            line.events.push_back(one);
        }
        room
    }

    /// When one can be told next.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let lines = self.lines.values().filter(|line| !line.events.is_empty());
        lines.map(|line| line.until.unwrap_or(now)).min()
    }

    /// The next one, and its namespace.
    pub(super) fn next(&mut self, now: Instant) -> Option<(String, One)> {
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
    pub(super) fn again(&mut self, namespace: &str, one: One, now: Instant) {
        let line = self.line(namespace);
        line.failed(now);
        line.events.push_front(one);
    }

    /// It is not tried again.
    pub(super) fn given_up(&mut self, namespace: &str, now: Instant) {
        self.line(namespace).failed(now);
    }

    /// The server takes what is told of that namespace.
    pub(super) fn taken(&mut self, namespace: &str) {
        if let Some(line) = self.lines.get_mut(namespace) {
            line.pauses.reset();
            line.until = None;
        }
    }
}

impl Line {
    fn new(namespace: &str) -> Self {
        Self {
            events: VecDeque::new(),
            pauses: Pauses::new(FAILED.0, FAILED.1, seed(namespace)),
            until: None,
        }
    }

    fn failed(&mut self, now: Instant) {
        self.until = Some(now + self.pauses.failed());
    }
}

#[cfg(test)]
mod tests {
    use capture_api::RunState;

    use super::*;
    use crate::{
        requests::kubernetes::{
            events::{Events, news},
            records::tests::record,
        },
        telemetry::Meters,
    };

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
        let mut pauses = Pauses::new(FAILED.0, FAILED.1, seed("team-a"));
        let [first, second] = [pauses.failed(), pauses.failed()];
        let around = |pause, middle: Duration| (middle * 3 / 4..=middle * 5 / 4).contains(&pause);
        assert!(around(first, FAILED.0) && around(second, 2 * FAILED.0), "{first:?} {second:?}");
        let now = Instant::now();
        let mut waiting = Waiting::default();
        let one = || One { told: refused("x"), regarding: ObjectReference::default(), tries: 0 };
        waiting.put("team-a", one());
        waiting.put("team-b", one());
        waiting.put("team-b", one());
        let (team_a, failed) = waiting.next(now).unwrap();
        waiting.again(&team_a, failed, now);
        for _ in 0..2 {
            assert_eq!(waiting.next(now).unwrap().0, "team-b");
        }
        assert!(waiting.next(now).is_none());
        assert_eq!(waiting.due(now), Some(now + first));
        let (team_a, _) = waiting.next(now + first).unwrap();
        waiting.given_up(&team_a, now);
        waiting.put("team-a", one());
        assert_eq!(waiting.due(now), Some(now + second));
        waiting.taken("team-a");
        assert_eq!(waiting.due(now), Some(now));
        assert!(waiting.next(now).is_some() && waiting.due(now).is_none());
    }
}
