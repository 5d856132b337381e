//! What sessions tell for metrics, once a second.

use super::Engine;
use crate::{
    datapath::{AttachMode, Counters},
    session::{Phase, Run, Session, progress::Delivered},
    telemetry::snapshot::{Counts, Snapshot, Taps},
};

/// What of a run has been told. It begins with what an earlier agent counted: metrics are this agent's.
#[derive(Debug)]
pub(in crate::session) struct Told {
    counts: Counts,
    /// The run is over, and all of it has been told.
    settled: bool,
}

impl Told {
    /// Nothing of a run that is about to become a session.
    pub(in crate::session) fn before(run: &Run) -> Self {
        Self { counts: counts(run, &run.counted, run.delivered), settled: false }
    }

    /// Packets and bytes were found, or found missing, in files of an earlier agent.
    pub(in crate::session) fn mended(&mut self, before: (u64, u64), after: (u64, u64)) {
        let moved = |told: &mut u64, before: u64, after: u64| {
            *told = told.saturating_add(after).saturating_sub(before);
        };
        moved(&mut self.counts.packets_written, before.0, after.0);
        moved(&mut self.counts.bytes_written, before.1, after.1);
    }
}

fn counts(run: &Run, counted: &Counters, delivered: Delivered) -> Counts {
    Counts {
        from_pod: counted.from_pod,
        to_pod: counted.to_pod,
        storage_drops: delivered.storage_drops,
        beyond_limit: delivered.beyond_limit,
        packets_written: run.files.packets(),
        bytes_written: run.files.bytes(),
        files: run.next_sequence.into(),
    }
}

impl Session {
    /// Adds the run to its namespace's numbers.
    fn tell(&mut self, snapshot: &mut Snapshot) {
        self.count_tap(&mut snapshot.taps);
        let namespace = snapshot.namespace(&self.run.namespace, &self.run.namespace_uid);
        namespace.count_run(self.run.state);
        namespace.used = self.dir.owner_bytes();
        if self.told.settled && self.is_over() {
            return;
        }
        let counts = counts(&self.run, &self.counted(), self.progress.delivered());
        namespace.counts.add(&counts.since(&mut self.told.counts));
        self.told.settled = self.is_over() && self.open_streams == 0;
    }

    fn count_tap(&self, taps: &mut Taps) {
        let info = match &self.phase {
            Phase::Tapped { info, .. }
            | Phase::Reloading { info, .. }
            | Phase::TakingOver { old: info, .. } => info,
            _ => return,
        };
        match info.mode {
            AttachMode::Tcx => taps.tcx += 1,
            AttachMode::Socket => taps.socket += 1,
        }
    }
}

impl Engine {
    /// Writes the numbers of all sessions, if anybody may ask for them. Allocates only for a namespace that is new.
    pub(super) fn publish(&mut self) {
        let Self { node, sessions, homeless, turned_away, .. } = self;
        node.telemetry.write(|snapshot| {
            snapshot.begin();
            for session in sessions.values_mut().rev() {
                session.tell(snapshot);
            }
            for (key, uid) in turned_away.iter() {
                snapshot.namespace(&key.namespace, uid).turned_away += 1;
            }
            snapshot.provisional = node.provisional.usage();
            (snapshot.rings_used, snapshot.rings_limit) = (node.rings.used(), node.rings.total());
            snapshot.storage = node.storage.usage();
            snapshot.unwritable = if snapshot.storage.read_only {
                Some("its file system is mounted read-only")
            } else if !homeless.is_empty()
                || sessions.values().any(|session| session.unwritten && !session.is_over())
            {
                Some("run.json or a directory cannot be written")
            } else {
                None
            };
        });
    }
}
