//! What a stream's two ends share: the queue of what is to be done, and the counts that both need.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{
        AtomicBool, AtomicIsize, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Relaxed},
    },
    mpsc::Sender,
};

use super::{StorageFailure, file::Blocks, layout::Way, worker::Worker};

/// What the consumer hands over, in order.
pub(super) enum Item {
    /// Blocks, to be written in the way that was planned for them; the file becomes `planned` bytes longer.
    Blocks { blocks: Blocks, way: Way, planned: u64 },
    /// The file ends with these blocks.
    Close { closing: Vec<u8>, planned: u64 },
    /// The consumer will hand over no more blocks, because of this.
    Refused(StorageFailure),
    /// The stream ends.
    Finish,
}

/// Streams in the queue, and the order to stop.
pub(super) enum Ready {
    Stream(Arc<Lane>),
    Stop,
}

/// How many streams there are, and how many have chunks.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) open: AtomicUsize,
    pub(super) holding: AtomicUsize,
}

/// What a stream's two ends share. The alignment keeps what the consumer reads for every block away from what
/// writers change.
#[repr(align(128))]
pub(super) struct Lane {
    /// Nothing can be written any more.
    pub(super) failed: AtomicBool,
    counters: Counters,
    pub(super) lanes: Arc<Lanes>,
    worker: Mutex<Worker>,
}

#[repr(align(128))]
#[derive(Default)]
struct Counters {
    /// Items handed over and not dealt with. May be one too low for a moment, hence signed.
    waiting: AtomicIsize,
    /// Chunks that the stream has, with the consumer's.
    chunks: AtomicUsize,
    /// Packets that were taken but could not be written.
    lost: AtomicU64,
}

impl Lane {
    pub(super) fn new(worker: Worker, lanes: Arc<Lanes>) -> Self {
        lanes.open.fetch_add(1, Relaxed);
        Self { failed: false.into(), counters: Counters::default(), lanes, worker: Mutex::new(worker) }
    }

    pub(super) fn chunks(&self) -> usize {
        self.counters.chunks.load(Relaxed)
    }

    pub(super) fn took_chunk(&self) {
        if self.counters.chunks.fetch_add(1, Relaxed) == 0 {
            self.lanes.holding.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn gave_back(&self, chunks: usize) {
        if chunks > 0 && self.counters.chunks.fetch_sub(chunks, Relaxed) == chunks {
            self.lanes.holding.fetch_sub(1, Relaxed);
        }
    }

    pub(super) fn lose(&self, packets: u64) {
        self.counters.lost.fetch_add(packets, Relaxed);
    }

    pub(super) fn lost(&self) -> u64 {
        self.counters.lost.load(Relaxed)
    }

    /// Queues the stream after `items` were handed over, unless it is queued already.
    pub(super) fn handed_over(self: &Arc<Self>, items: usize, ready: &Sender<Ready>) {
        if items > 0 && self.counters.waiting.fetch_add(items as isize, AcqRel) == 0 {
            let _ = ready.send(Ready::Stream(Arc::clone(self)));
        }
    }

    /// Deals with what waits, and returns whether there is more.
    pub(super) fn serve(&self) -> bool {
        let served = self.worker.lock().unwrap_or_else(PoisonError::into_inner).serve(self) as isize;
        self.counters.waiting.fetch_sub(served, AcqRel) > served
    }
}
