//! The consumer's end of a stream: blocks come in, and are only copied.
//!
//! A stream fills one chunk at a time. A full one is *sealed*: how it will be written, and how long its file will be
//! then, is fixed in that moment, so lengths are known exactly before anything is on the disk. Sealed chunks go to
//! the writers a few at a time; what waits longer than that goes with [`FileStream::tick`].

use std::{
    mem,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use super::{
    Append, FileSummary, StorageFailure, StreamSpec,
    accounts::{Account, Accounts},
    budget::{Share, WriteBudget},
    copy,
    file::{Blocks, header_end},
    lane::{Item, Lane, Ready},
    layout::{Course, PACKED_MOST, PAGE, gap},
    pool::{CHUNK, Chunk, Pool},
};
use crate::pcapng::{SMALLEST_FILLER, block_length, is_packet};

/// Blocks in a chunk leave room for the filler behind them.
const USABLE: usize = CHUNK - SMALLEST_FILLER;
/// A stream may have so many times the chunks that it leaves to others. Disks stop or slow down now and then, and a flood goes
/// on.
const SHARE: usize = 3;
/// Chunks that a stream may have whatever room the disk or the quota has left: 8 MiB.
const FEW_CHUNKS: usize = 32;
/// Sealed chunks that are handed over at once while there is plenty of memory: 1 MiB.
const BATCH: usize = 4;
/// Blocks wait no longer than this for more, counted from the tick that first sees them. With a tick each 100 ms it
/// is at most half a second until they are on their way to the disk.
const PATIENCE: Duration = Duration::from_millis(400);
/// Packing may cost as much filler as there are blocks, and a page at both ends.
const PACKING: u64 = PACKED_MOST as u64 + 4 * PAGE as u64;
/// The longest closing block, in bytes: it must fit into a page with a filler.
pub(super) const LONGEST_CLOSING: usize = PAGE - SMALLEST_FILLER;

/// One stream of blocks into the files of one run. It lives in the consumer thread: no function of it does I/O,
/// waits, or allocates for a block.
pub struct FileStream {
    chunk: Option<Chunk>,
    /// Bytes of blocks in `chunk`.
    filled: usize,
    /// Up to here, `chunk` can be filled without a second thought: it has the room, and so has the file.
    easy: usize,
    /// Packets in `chunk`.
    packets: u64,
    lane: Arc<Lane>,
    budget: Option<Arc<WriteBudget>>,
    share: Share,

    spec: StreamSpec,
    /// Length of the header.
    header: usize,
    /// Whether the file system has the direct way.
    direct: bool,
    /// Where the file will end when all sealed chunks are written; 0 before the first of a file.
    position: u64,
    /// Where it will end with what is in `chunk`.
    course: Course,
    /// The most that [`Self::bytes`] has said.
    reported: u64,
    /// Packets in sealed chunks of this file.
    file_packets: u64,
    /// Bytes in the files before.
    earlier: u64,
    sealed: Vec<Item>,
    /// Since when something waits here.
    waiting_since: Option<Instant>,
    /// When the file got its first block.
    file_since: Option<Instant>,
    refused: bool,
    ended: bool,

    pool: Arc<Pool>,
    account: Arc<Account>,
    items: Sender<Item>,
    ready: Sender<Ready>,
}

/// What all streams share.
pub(super) struct Surroundings {
    pub(super) pool: Arc<Pool>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) budget: Option<Arc<WriteBudget>>,
    pub(super) ready: Sender<Ready>,
    pub(super) direct: bool,
}

impl FileStream {
    pub(super) fn new(
        surroundings: &Surroundings,
        account: &Arc<Account>,
        mut spec: StreamSpec,
        make_lane: impl FnOnce(Receiver<Item>, Vec<u8>, &StreamSpec) -> Lane,
    ) -> Self {
        let (items, receiver) = channel();
        let bytes = mem::take(&mut spec.header);
        let header = bytes.len();
        Self {
            chunk: None,
            filled: 0,
            easy: 0,
            packets: 0,
            lane: Arc::new(make_lane(receiver, bytes, &spec)),
            budget: surroundings.budget.clone(),
            share: Share::default(),
            spec,
            header,
            direct: surroundings.direct,
            position: 0,
            course: Course::new(header_end(header), surroundings.direct),
            reported: 0,
            file_packets: 0,
            earlier: 0,
            sealed: Vec::with_capacity(BATCH),
            waiting_since: None,
            file_since: None,
            refused: false,
            ended: false,
            pool: Arc::clone(&surroundings.pool),
            account: Arc::clone(account),
            items,
            ready: surroundings.ready.clone(),
        }
    }

    /// Takes one whole block, at most 128 KiB, as it is. `closing` makes the blocks that end a file; it is asked only
    /// when this block begins another one.
    #[inline]
    pub fn append(&mut self, block: &[u8], closing: impl FnOnce(&FileSummary) -> Vec<u8>) -> Append {
        if self.filled + block.len() > self.easy
            && let Err(refusal) = self.make_room(block, closing)
        {
            return refusal;
        }
        if self.lane.failed.load(Relaxed) {
            return Append::Failed;
        }
        if let Some(budget) = &self.budget
            && !budget.allow(&mut self.share, block.len())
        {
            return Append::OverBudget;
        }
        let Some(chunk) = &mut self.chunk else { return Append::NoBuffer };
        copy::copy(&mut chunk[self.filled..][..block.len()], block);
        self.filled += block.len();
        self.course = self.course.with(block.len());
        self.packets += u64::from(is_packet(block));
        Append::Taken
    }

    /// Has a chunk, and a file, that `block` fits into; afterwards it can be appended.
    #[cold]
    fn make_room(
        &mut self,
        block: &[u8],
        closing: impl FnOnce(&FileSummary) -> Vec<u8>,
    ) -> Result<(), Append> {
        if self.refused || self.ended || self.lane.failed.load(Relaxed) {
            return Err(Append::Failed);
        }
        debug_assert!(block.len() <= CHUNK / 2);
        if self.filled + block.len() > USABLE {
            self.seal();
        }
        if self.begun() && self.bound(self.course.with(block.len()).end()) > self.spec.rotation.file_bytes {
            self.rotate(closing);
        }
        if self.chunk.is_none() {
            self.take_chunk()?;
        }
        Ok(())
    }

    fn take_chunk(&mut self) -> Result<(), Append> {
        if let Some(reason) = self.account.full() {
            self.refuse(reason);
            return Err(Append::Failed);
        }
        let chunk = if self.may_take() { self.pool.take() } else { None };
        let Some(chunk) = chunk else {
            // Whatever is sealed would wait for a batch that never becomes full.
            self.hand_over();
            return Err(Append::NoBuffer);
        };
        self.lane.took_chunk();
        self.chunk = Some(chunk);
        // The bound of `make_room`, solved for the chunk's length and never too high.
        let room = self.spec.rotation.file_bytes.saturating_sub(self.bound(self.course.end()) + PACKING);
        let room = if self.direct { room } else { room / 2 };
        self.easy = usize::try_from(room).unwrap_or(usize::MAX).min(USABLE);
        Ok(())
    }

    /// Whether this stream may have one more chunk. The first one always; more only as long as enough is left to others,
    /// with one for each stream that has none, and the disk has room for twice what waits to be written, which takes
    /// of it.
    fn may_take(&self) -> bool {
        let mine = self.lane.chunks();
        let lanes = &self.lane.lanes;
        let without = lanes.open.load(Relaxed).saturating_sub(lanes.holding.load(Relaxed));
        let reserve = without.min(self.pool.chunks() / 2);
        mine == 0
            || mine <= SHARE * self.pool.free().saturating_sub(reserve)
                && (mine < FEW_CHUNKS || self.account.room_for(2 * (mine + 1) * CHUNK))
    }

    /// Nothing more is taken; what was taken will be written.
    fn refuse(&mut self, reason: StorageFailure) {
        self.refused = true;
        self.sealed.push(Item::Refused(reason));
        self.hand_over();
    }

    /// Whether the file has blocks.
    const fn begun(&self) -> bool {
        self.position > 0 || self.filled > 0
    }

    /// The most that a file has which ends with closing blocks after `end`.
    const fn bound(&self, end: u64) -> u64 {
        let most = self.spec.closing_bytes;
        let room = PAGE - end as usize % PAGE;
        end + (most + if room < most + SMALLEST_FILLER { gap(end) } else { 0 }) as u64
    }

    /// Bytes of this stream's files as they would be if all were written now, with headers and filler, without the
    /// closing blocks of the last one. Many blocks can need less filler than few, but what was said is not taken back:
    /// it may be up to 16 KiB too much for a while.
    pub fn bytes(&mut self) -> u64 {
        let now = self.earlier + if self.begun() { self.course.end() } else { 0 };
        self.reported = self.reported.max(now);
        self.reported
    }

    /// The most bytes that this stream's files have in the end if it is closed now, with closing blocks of at most
    /// `closing_bytes`.
    #[must_use]
    pub const fn bytes_closed(&self) -> u64 {
        self.earlier + if self.begun() { self.bound(self.course.end()) } else { 0 }
    }

    /// The most bytes that this stream's files have in the end if `block` is appended and the stream then closed with
    /// closing blocks of at most `closing_bytes`. Exact but for the length of these, and cheap.
    #[must_use]
    #[inline]
    pub const fn bytes_with(&self, block: &[u8]) -> u64 {
        let end = self.bound(self.course.with(block.len()).end());
        if self.begun() && end > self.spec.rotation.file_bytes {
            // It will be in the next file.
            let next = Course::new(header_end(self.header), self.direct).with(block.len());
            return self.earlier + self.bound(self.course.end()) + self.bound(next.end());
        }
        self.earlier + end
    }

    /// Ends the chunk: fixes how it is written.
    fn seal(&mut self) {
        let Some(chunk) = self.chunk.take() else { return };
        let (length, packets) = (mem::take(&mut self.filled), mem::take(&mut self.packets));
        self.easy = 0;
        if length == 0 {
            drop(chunk);
            self.lane.gave_back(1);
            return;
        }
        let (way, end) = (self.course.way(), self.course.end());
        let planned = end - self.position;
        self.position = end;
        self.course = Course::new(end, self.direct);
        self.file_packets += packets;
        self.account.plan(planned);
        self.sealed.push(Item::Blocks { blocks: Blocks { chunk, length, packets }, way, planned });
        let plenty = self.pool.free() > self.pool.chunks() / 2;
        if self.sealed.len() >= if plenty { BATCH } else { 1 } {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let items = self.sealed.len();
        copy::settle();
        for item in self.sealed.drain(..) {
            // The lane holds the other end.
            let _ = self.items.send(item);
        }
        self.lane.handed_over(items, &self.ready);
        self.waiting_since = None;
    }

    /// Ends the file. The next block begins another.
    fn rotate(&mut self, closing: impl FnOnce(&FileSummary) -> Vec<u8>) {
        self.seal();
        let closing = closing(&FileSummary { packets: self.file_packets });
        self.close_file(closing);
    }

    fn close_file(&mut self, closing: Vec<u8>) {
        if self.position == 0 {
            return;
        }
        let mut end = Course::new(self.position, false);
        let mut rest = &closing[..];
        while let Some(length) = block_length(rest) {
            end = end.with(length);
            rest = rest.get(length..).unwrap_or_default();
        }
        let end = end.end();
        let planned = end - self.position;
        self.account.plan(planned);
        self.earlier += end;
        (self.position, self.file_packets, self.file_since) = (0, 0, None);
        self.course = Course::new(header_end(self.header), self.direct);
        self.sealed.push(Item::Close { closing, planned });
    }

    /// Puts blocks that are not packets into the file, if there is one and a buffer at hand: they are lost otherwise,
    /// and never begin a file.
    pub fn note(&mut self, block: &[u8], closing: impl FnOnce(&FileSummary) -> Vec<u8>) {
        if self.begun() {
            let _ = self.append(block, closing);
        }
    }

    /// To be called each 100 ms or more often: hands over what waits for long, and ends a file whose time is over.
    pub fn tick(&mut self, now: Instant, closing: impl FnOnce(&FileSummary) -> Vec<u8>) {
        if let Some(budget) = &self.budget {
            budget.roll(now);
        }
        if self.lane.failed.load(Relaxed) {
            self.lane.lose(mem::take(&mut self.packets));
            self.filled = 0;
            self.seal();
            self.hand_over();
            return;
        }
        if self.begun() {
            let since = *self.file_since.get_or_insert(now);
            if self.spec.rotation.interval.is_some_and(|interval| now.duration_since(since) >= interval) {
                self.rotate(closing);
                self.hand_over();
                return;
            }
        }
        if self.filled > 0 || !self.sealed.is_empty() {
            let since = *self.waiting_since.get_or_insert(now);
            if now.duration_since(since) >= PATIENCE {
                self.seal();
                self.hand_over();
            }
        }
    }

    /// Ends the stream: appends `last`, the closing blocks (at most 4,084 bytes), and closes the file. `Finished` is
    /// told when all is written. Without a block before, no file is made.
    pub fn close(mut self, last: Vec<u8>) {
        debug_assert!(last.len() <= LONGEST_CLOSING);
        self.seal();
        self.close_file(last);
        self.end();
    }

    fn end(&mut self) {
        if !mem::replace(&mut self.ended, true) {
            self.seal();
            self.sealed.push(Item::Finish);
            self.hand_over();
        }
    }

    /// Packets that were taken and then could not be written. They come with the writers' failures.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lane.lost()
    }
}

impl Drop for FileStream {
    /// A stream that is not closed writes what it has; its file ends without closing blocks.
    fn drop(&mut self) {
        self.end();
    }
}
