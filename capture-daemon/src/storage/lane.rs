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
    waiting: Waiting,
    /// Chunks that the stream has, with the consumer's.
    chunks: AtomicUsize,
    /// Packets that were taken but could not be written.
    lost: AtomicU64,
}

/// Items handed over and not dealt with, and with that whether the stream is in the queue or with a worker: it is
/// exactly while this is above 0. Who takes it above 0 queues the stream, and who takes it from above 0 to 0 or less
/// lets go of it; both happen in one step, so no stream is queued twice, and none is forgotten.
///
/// It is below 0 while a worker has dealt with items that the consumer has sent and not yet counted: then it is not
/// the first item that queues the stream again, but the one that is more than those.
#[derive(Debug, Default)]
struct Waiting(AtomicIsize);

impl Waiting {
    /// So many were sent, and can be received. True if the stream is to be queued.
    fn add(&self, items: usize) -> bool {
        let items = items as isize;
        let before = self.0.fetch_add(items, AcqRel);
        before <= 0 && before + items > 0
    }

    /// So many were dealt with, by the worker that has the stream. True if it is to be queued again.
    fn subtract(&self, items: usize) -> bool {
        let items = items as isize;
        self.0.fetch_sub(items, AcqRel) > items
    }
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

    /// Queues the stream after `items` were handed over, unless it is queued already or a worker has it.
    pub(super) fn handed_over(self: &Arc<Self>, items: usize, ready: &Sender<Ready>) {
        if self.counters.waiting.add(items) {
            let _ = ready.send(Ready::Stream(Arc::clone(self)));
        }
    }

    /// Deals with what waits, and returns whether there is more.
    pub(super) fn serve(&self) -> bool {
        let served = self.worker.lock().unwrap_or_else(PoisonError::into_inner).serve(self);
        self.counters.waiting.subtract(served)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, sync::atomic::Ordering::Relaxed};

    use super::*;

    /// Everything that a consumer and workers can see of a lane between two steps of theirs.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    struct Moment {
        /// Items that the consumer has sent in all, and those of them that it has not counted.
        sent: usize,
        uncounted: usize,
        /// Items in the channel.
        in_channel: usize,
        waiting: isize,
        /// How often the stream is in the queue.
        queued: usize,
        /// What a worker that serves the stream has dealt with.
        served: Option<usize>,
    }

    impl Moment {
        const ITEMS: usize = 8;

        /// Every step that somebody can take next.
        fn next(self) -> Vec<Self> {
            let mut next = Vec::new();
            if self.sent < Self::ITEMS {
                let (sent, uncounted) = (self.sent + 1, self.uncounted + 1);
                next.push(Self { sent, uncounted, in_channel: self.in_channel + 1, ..self });
            }
            let waiting = Waiting(self.waiting.into());
            let queue = waiting.add(self.uncounted);
            let queued = self.queued + usize::from(queue);
            next.push(Self { uncounted: 0, waiting: waiting.0.load(Relaxed), queued, ..self });
            match self.served {
                None if self.queued > 0 => {
                    next.push(Self { queued: self.queued - 1, served: Some(0), ..self });
                }
                None => {}
                Some(served) => {
                    if self.in_channel > 0 {
                        let in_channel = self.in_channel - 1;
                        next.push(Self { in_channel, served: Some(served + 1), ..self });
                    }
                    let waiting = Waiting(self.waiting.into());
                    let queued = self.queued + usize::from(waiting.subtract(served));
                    let waiting = waiting.0.load(Relaxed);
                    next.push(Self { waiting, queued, served: None, ..self });
                }
            }
            next.retain(|next| *next != self);
            next
        }
    }

    #[test]
    fn whoever_is_held_up_wherever_a_stream_is_queued_once_and_never_forgotten() {
        let (mut seen, mut left) = (HashSet::new(), vec![Moment::default()]);
        while let Some(moment) = left.pop() {
            let holders = moment.queued + usize::from(moment.served.is_some());
            assert!(holders <= 1, "with two workers, or twice in the queue: {moment:?}");
            assert!(
                holders == 1 || moment.uncounted > 0 || moment.in_channel == 0,
                "forgotten with items waiting: {moment:?}"
            );
            if seen.insert(moment) {
                left.extend(moment.next());
            }
        }
        assert!(seen.len() > 500, "{}", seen.len());
    }
}
