//! The agent's numbers as of the last second, by namespace.
//!
//! The session engine writes them in place once a second; whoever is asked for metrics copies them. What goes up only
//! (counters) stays when the runs that it came from are gone; what goes up and down is worked out anew each second.

use std::collections::BTreeMap;

use capture_api::RunState;
use capture_common::DirectionCounters;

use crate::storage::Usage;

/// All states of a run, in the order of [`Namespace::runs`].
pub const STATES: [RunState; 9] = [
    RunState::Pending,
    RunState::Scheduled,
    RunState::WaitingForTraffic,
    RunState::Capturing,
    RunState::Paused,
    RunState::Completed,
    RunState::Stopped,
    RunState::Refused,
    RunState::Failed,
];

/// The most namespaces that have numbers of their own. Kubernetes puts 110 pods on a node unless told otherwise.
pub const MOST_NAMESPACES: usize = 200;

/// What stands for all other namespaces together, and for runs of a namespace that was deleted and made again. No
/// namespace can have this name.
pub const OTHERS: &str = "_other";

/// The agent's numbers.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    namespaces: BTreeMap<String, Namespace>,
    others: Namespace,
    /// Interfaces that are tapped by tcx, and by packet sockets.
    pub taps: Taps,
    /// Taps of pods that have no interface yet.
    pub provisional: ProvisionalTaps,
    /// Bytes of ring buffers that taps have.
    pub rings_used: u64,
    /// Bytes of ring buffers that taps may have.
    pub rings_limit: u64,
    /// The data directory and the buffers before it.
    pub storage: Usage,
    /// Why nothing can be written, if so.
    pub unwritable: Option<&'static str>,
}

/// Attached taps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taps {
    /// By tcx.
    pub tcx: u32,
    /// By a packet socket.
    pub socket: u32,
}

/// Taps that are loaded before it is known which interface is the pod's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProvisionalTaps {
    /// On no interface yet.
    pub ready: u32,
    /// On new interfaces that are nobody's so far.
    pub attached: u32,
    /// Bytes of their ring buffers.
    pub rings_used: u64,
    /// Bytes that these may have.
    pub rings_limit: u64,
}

/// One namespace's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// UID of the namespace that has the name now, as far as captures tell.
    uid: String,
    /// It had runs a second ago.
    had_runs: bool,
    /// Runs by state, in the order of [`STATES`].
    pub runs: [u32; STATES.len()],
    /// Runs that were refused without a record.
    pub turned_away: u32,
    /// Bytes of all its runs' directories.
    pub used: u64,
    /// What never goes down.
    pub counts: Counts,
}

/// What is counted since the agent began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What pods sent.
    pub from_pod: DirectionCounters,
    /// What pods received.
    pub to_pod: DirectionCounters,
    /// Packets that storage did not take.
    pub storage_drops: u64,
    /// Packets that came after a limit was reached.
    pub beyond_limit: u64,
    /// Packets in files.
    pub packets_written: u64,
    /// Bytes in files.
    pub bytes_written: u64,
    /// Files begun.
    pub files: u64,
}

impl Counts {
    /// What of it came after `before`; `before` becomes what was seen so far, and does not go down.
    #[must_use]
    pub fn since(&self, before: &mut Self) -> Self {
        let mut news = Self::default();
        let all = self.values().into_iter().zip(before.values_mut()).zip(news.values_mut());
        for ((now, before), news) in all {
            *news = now.saturating_sub(*before);
            *before = now.max(*before);
        }
        news
    }

    /// Adds what came.
    pub fn add(&mut self, news: &Self) {
        for (sum, news) in self.values_mut().into_iter().zip(news.values()) {
            *sum = sum.saturating_add(news);
        }
    }

    const fn values(&self) -> [u64; 21] {
        let Self {
            from_pod: a,
            to_pod: b,
            storage_drops,
            beyond_limit,
            packets_written,
            bytes_written,
            files,
        } = *self;
        [
            a.seen,
            a.matched,
            a.captured,
            a.bytes,
            a.sampled_out,
            a.rate_limited,
            a.ring_full,
            a.truncated,
            b.seen,
            b.matched,
            b.captured,
            b.bytes,
            b.sampled_out,
            b.rate_limited,
            b.ring_full,
            b.truncated,
            storage_drops,
            beyond_limit,
            packets_written,
            bytes_written,
            files,
        ]
    }

    const fn values_mut(&mut self) -> [&mut u64; 21] {
        let Self {
            from_pod: a,
            to_pod: b,
            storage_drops,
            beyond_limit,
            packets_written,
            bytes_written,
            files,
        } = self;
        [
            &mut a.seen,
            &mut a.matched,
            &mut a.captured,
            &mut a.bytes,
            &mut a.sampled_out,
            &mut a.rate_limited,
            &mut a.ring_full,
            &mut a.truncated,
            &mut b.seen,
            &mut b.matched,
            &mut b.captured,
            &mut b.bytes,
            &mut b.sampled_out,
            &mut b.rate_limited,
            &mut b.ring_full,
            &mut b.truncated,
            storage_drops,
            beyond_limit,
            packets_written,
            bytes_written,
            files,
        ]
    }
}

impl Snapshot {
    /// Before all runs are told anew.
    pub fn begin(&mut self) {
        self.taps = Taps::default();
        for namespace in self.namespaces.values_mut().chain([&mut self.others]) {
            namespace.had_runs = namespace.has_runs();
            namespace.runs = [0; STATES.len()];
            namespace.used = 0;
            namespace.turned_away = 0;
        }
    }

    /// Where the numbers of a run of that namespace belong. Newer runs are told first: those of the namespace that had
    /// the name before are not its successor's. Allocates for a namespace that is new.
    pub fn namespace(&mut self, name: &str, uid: &str) -> &mut Namespace {
        if !self.namespaces.contains_key(name) && !self.make_room() {
            return &mut self.others;
        }
        if !self.namespaces.contains_key(name) {
            self.namespaces
                .insert(name.to_owned(), Namespace { uid: uid.to_owned(), ..Namespace::default() });
        }
        match self.namespaces.get_mut(name) {
            Some(known) if known.uid == uid => known,
            Some(known) if !known.has_runs() => {
                uid.clone_into(&mut known.uid);
                known
            }
            _ => &mut self.others,
        }
    }

    /// Whether there is room for one more namespace; one that has no runs any more makes it.
    fn make_room(&mut self) -> bool {
        if self.namespaces.len() < MOST_NAMESPACES {
            return true;
        }
        let unused = self.namespaces.iter().find(|(_, known)| !known.had_runs && !known.has_runs());
        let Some(name) = unused.map(|(name, _)| name.clone()) else { return false };
        self.namespaces.remove(&name);
        true
    }

    /// All namespaces that have numbers, and the others together if they have any.
    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &Namespace)> {
        let others = (self.others != Namespace::default()).then_some((OTHERS, &self.others));
        self.namespaces.iter().map(|(name, namespace)| (name.as_str(), namespace)).chain(others)
    }
}

impl Namespace {
    fn has_runs(&self) -> bool {
        self.runs != [0; STATES.len()]
    }

    /// One more run in that state.
    pub const fn count_run(&mut self, state: RunState) {
        self.runs[state as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(seen: u64, files: u64) -> Counts {
        Counts {
            from_pod: DirectionCounters { seen, ..DirectionCounters::default() },
            files,
            ..Counts::default()
        }
    }

    #[test]
    fn states_are_in_their_places() {
        for (place, state) in STATES.into_iter().enumerate() {
            assert_eq!(state as usize, place);
        }
    }

    #[test]
    fn what_came_is_counted_once_even_when_a_reading_goes_back() {
        let mut before = Counts::default();
        assert_eq!(counts(5, 1).since(&mut before), counts(5, 1));
        assert_eq!(counts(3, 1).since(&mut before), counts(0, 0));
        assert_eq!(counts(7, 2).since(&mut before), counts(2, 1));
        assert_eq!(before, counts(7, 2));
    }

    #[test]
    fn counts_stay_when_runs_are_gone_and_gauges_do_not() {
        let mut snapshot = Snapshot::default();
        let team = snapshot.namespace("team-a", "");
        team.count_run(RunState::Capturing);
        team.used = 7;
        team.counts.add(&counts(5, 1));
        snapshot.begin();
        let all: Vec<_> = snapshot.namespaces().collect();
        assert_eq!(all.len(), 1);
        let (name, team) = all[0];
        assert_eq!((name, team.runs, team.used, team.counts), ("team-a", [0; 9], 0, counts(5, 1)));
    }

    #[test]
    fn namespaces_are_bounded_and_unused_ones_make_room() {
        let mut snapshot = Snapshot::default();
        for number in 0..MOST_NAMESPACES + 5 {
            let namespace = snapshot.namespace(&format!("n{number}"), "");
            namespace.count_run(RunState::Capturing);
            namespace.counts.add(&counts(1, 0));
        }
        let of = |snapshot: &Snapshot, name: &str| {
            snapshot
                .namespaces()
                .find(|(known, _)| *known == name)
                .map(|(_, namespace)| namespace.counts.from_pod.seen)
        };
        assert_eq!(snapshot.namespaces().count(), MOST_NAMESPACES + 1);
        assert_eq!(of(&snapshot, OTHERS), Some(5));
        // All but n0 go on.
        for _ in 0..2 {
            snapshot.begin();
            for number in 1..MOST_NAMESPACES {
                snapshot.namespace(&format!("n{number}"), "").count_run(RunState::Capturing);
            }
        }
        snapshot.namespace("new", "").counts.add(&counts(3, 0));
        assert_eq!((of(&snapshot, "new"), of(&snapshot, "n0")), (Some(3), None));
        assert_eq!(snapshot.namespaces().count(), MOST_NAMESPACES + 1);
    }

    #[test]
    fn runs_of_a_namespace_of_before_are_not_its_successors() {
        let mut snapshot = Snapshot::default();
        snapshot.namespace("team-a", "old").count_run(RunState::Stopped);
        snapshot.begin();
        // The newest first.
        snapshot.namespace("team-a", "new").count_run(RunState::Capturing);
        snapshot.namespace("team-a", "old").count_run(RunState::Stopped);
        let all: Vec<_> = snapshot
            .namespaces()
            .map(|(name, namespace)| (name, namespace.runs.iter().sum::<u32>()))
            .collect();
        assert_eq!(all, [("team-a", 1), (OTHERS, 1)]);
    }
}
