//! Where a tap's blocks go: into the run's files, as long as its limits allow. Runs in the consumer thread.

use std::{sync::Arc, time::Instant};

use super::progress::Progress;
use crate::{
    datapath::{BlockSink, Counters, Take},
    pcapng::Statistics,
    storage::{Append, FileStream},
};

/// Which limit a run has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.packets`.
    Packets,
    /// `limits.bytes`.
    Bytes,
}

/// What a tap's files say of its packets.
#[derive(Debug)]
struct Tally {
    /// When the tap began, in ns of UTC.
    start: u64,
    /// What the tap has counted, as last heard.
    counters: Counters,
    /// What of it went into files.
    delivered: u64,
    /// What storage refused.
    refused: u64,
}

impl Tally {
    /// The interface statistics block as of now.
    fn block(&self) -> Vec<u8> {
        let total = self.counters.total();
        let now = utc();
        Statistics {
            start: self.start,
            end: now,
            received: total.seen,
            accepted: total.matched,
            os_drop: total.ring_full,
            delivered: self.delivered,
            sampled_out: total.sampled_out,
            rate_drop: total.rate_limited,
            storage_drop: self.refused,
        }
        .to_bytes(now)
    }

    const fn losses(&self) -> [u64; 3] {
        [
            self.counters.from_pod.ring_full + self.counters.to_pod.ring_full,
            self.counters.from_pod.rate_limited + self.counters.to_pod.rate_limited,
            self.refused,
        ]
    }
}

/// The sink of one tap.
pub(super) struct CaptureSink<F> {
    stream: FileStream,
    progress: Arc<Progress>,
    tally: Tally,
    /// Bytes of `stream` that `progress` knows of.
    reported_bytes: u64,
    /// The losses that the files already tell of.
    told: [u64; 3],
    on_limit: F,
    done: bool,
}

impl<F: Fn(Limit) + Send> CaptureSink<F> {
    /// A sink that writes to `stream` and calls `on_limit` once when a limit is reached.
    pub(super) fn new(stream: FileStream, progress: Arc<Progress>, on_limit: F) -> Self {
        let tally = Tally { start: utc(), counters: Counters::default(), delivered: 0, refused: 0 };
        Self { stream, progress, tally, reported_bytes: 0, told: [0; 3], on_limit, done: false }
    }

    #[cold]
    fn limit_reached(&mut self, limit: Limit) -> Take {
        if !self.done {
            self.done = true;
            (self.on_limit)(limit);
        }
        Take::Done
    }

    fn report_bytes(&mut self) {
        let bytes = self.stream.bytes();
        self.progress.count_bytes(self.reported_bytes, bytes);
        self.reported_bytes = bytes;
    }
}

impl<F: Fn(Limit) + Send> BlockSink for CaptureSink<F> {
    fn block(&mut self, block: &[u8]) -> Take {
        if self.done || self.progress.at_packet_limit() {
            return self.limit_reached(Limit::Packets);
        }
        if self.stream.bytes_with(block) > self.progress.bytes_left() + self.reported_bytes {
            return self.limit_reached(Limit::Bytes);
        }
        match self.stream.append(block, |_| self.tally.block()) {
            Append::Taken => {
                self.tally.delivered += 1;
                self.progress.count_packet();
                Take::Taken
            }
            Append::NoBuffer => Take::Busy,
            Append::OverBudget | Append::Failed => {
                self.tally.refused += 1;
                self.progress.count_storage_drop();
                Take::Taken
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.stream.tick(now, |_| self.tally.block());
        self.report_bytes();
    }

    fn statistics(&mut self, counters: &Counters) {
        self.tally.counters = *counters;
        // A file tells of loss soon after it happened, not only when it is closed.
        if self.tally.losses() != self.told {
            self.told = self.tally.losses();
            self.stream.note(&self.tally.block(), |_| self.tally.block());
        }
    }

    fn finish(mut self: Box<Self>, counters: &Counters) {
        self.tally.counters = *counters;
        if self.done {
            // The consumer has thrown them away without showing them here.
            let dealt_with = self.tally.delivered + self.tally.refused;
            self.progress.count_beyond_limit(counters.total().captured.saturating_sub(dealt_with));
        }
        self.report_bytes();
        self.stream.close(self.tally.block());
    }
}

/// Now, in ns of UTC since 1970.
fn utc() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}
