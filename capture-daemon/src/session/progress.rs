//! What a run has delivered to its files, and how much it still may.
//!
//! Written by the consumer thread alone and read by the engine; the limits go the other way. So relaxed atomics do.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// No limit.
pub(super) const UNLIMITED: u64 = u64::MAX;

/// Shared by the engine and the sinks of one run. During a change of settings two sinks deliver at once, both in
/// the consumer thread, and both count here: limits hold for the run, not for a tap.
#[derive(Debug)]
pub(super) struct Progress {
    /// Packets taken for files.
    packets: AtomicU64,
    /// Packets that an earlier agent left in files that it could not close.
    recovered: AtomicU64,
    /// The most bytes that the run's files have when all of its streams are closed now.
    bytes: AtomicU64,
    /// Packets that the node's write cap or a failed file kept out.
    storage_drops: AtomicU64,
    /// Packets that came after a limit was reached.
    beyond_limit: AtomicU64,
    /// Packets that were taken and could not be written.
    unwritten: AtomicU64,
    max_packets: AtomicU64,
    max_bytes: AtomicU64,
}

/// A reading of [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delivered {
    /// Packets in files.
    pub packets: u64,
    /// Packets that storage refused.
    pub storage_drops: u64,
    /// Packets that came after a limit was reached.
    pub beyond_limit: u64,
}

impl Progress {
    /// Continues from what an earlier agent delivered to the same run.
    #[must_use]
    pub(super) fn continuing(from: Delivered, bytes: u64) -> Self {
        Self {
            packets: from.packets.into(),
            recovered: 0.into(),
            bytes: bytes.into(),
            unwritten: 0.into(),
            storage_drops: from.storage_drops.into(),
            beyond_limit: from.beyond_limit.into(),
            max_packets: UNLIMITED.into(),
            max_bytes: UNLIMITED.into(),
        }
    }

    /// Sets the run's limits; [`UNLIMITED`] lifts one.
    pub(super) fn limit(&self, packets: u64, bytes: u64) {
        self.max_packets.store(packets, Relaxed);
        self.max_bytes.store(bytes, Relaxed);
    }

    /// What has been delivered so far.
    #[must_use]
    pub(super) fn delivered(&self) -> Delivered {
        let unwritten = self.unwritten.load(Relaxed);
        Delivered {
            packets: self.taken().saturating_sub(unwritten),
            storage_drops: self.storage_drops.load(Relaxed) + unwritten,
            beyond_limit: self.beyond_limit.load(Relaxed),
        }
    }

    pub(super) fn at_packet_limit(&self) -> bool {
        self.taken() >= self.max_packets.load(Relaxed)
    }

    /// Packets were found in files of an earlier agent. Before the first sink of a run with a limit on packets.
    pub(super) fn count_recovered(&self, packets: u64) {
        self.recovered.fetch_add(packets, Relaxed);
    }

    fn taken(&self) -> u64 {
        self.packets.load(Relaxed) + self.recovered.load(Relaxed)
    }

    /// Packets that were taken for files could not be written.
    pub(super) fn write_failed(&self, packets: u64) {
        self.unwritten.fetch_add(packets, Relaxed);
    }

    /// How many bytes more the run's files may get.
    pub(super) fn bytes_left(&self) -> u64 {
        self.max_bytes.load(Relaxed).saturating_sub(self.bytes.load(Relaxed))
    }

    /// A stream's files have grown from `before` to `now`; or shrunk: more blocks at once need less filling.
    pub(super) fn count_bytes(&self, before: u64, now: u64) {
        self.bytes.store(self.bytes.load(Relaxed) - before + now, Relaxed);
    }

    pub(super) fn count_packet(&self) {
        self.packets.store(self.packets.load(Relaxed) + 1, Relaxed);
    }

    pub(super) fn count_storage_drop(&self) {
        self.storage_drops.store(self.storage_drops.load(Relaxed) + 1, Relaxed);
    }

    /// So many packets more came after a limit was reached, before their tap was off.
    pub(super) fn count_beyond_limit(&self, packets: u64) {
        self.beyond_limit.store(self.beyond_limit.load(Relaxed) + packets, Relaxed);
    }
}
