//! The buffers of all streams: 256 KiB chunks in one bounded, aligned mapping.
//!
//! The lowest free chunk is always taken first, so the same few are used again and again while they are in the
//! processor's caches, and those at the top give their memory back when they have been idle. Taking and giving
//! back is lock-free: a writer thread that is preempted never holds up the consumer.

use std::{
    io,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Bytes in a chunk.
pub(super) const CHUNK: usize = 256 << 10;
/// This many chunks have memory from the start and keep it however long they are idle: 16 MiB, a full-rate flood's way
/// over 15 ms in which the disk takes nothing.
const KEPT: usize = 64;
/// The usual size of a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// A chunk that was not used in so many rounds of [`Pool::trim`] is idle.
const IDLE_ROUNDS: u32 = 2;

#[derive(Debug)]
pub(super) struct Pool {
    /// Where the mapping begins.
    mapping: NonNull<u8>,
    /// Where the first chunk begins: at a huge page.
    base: NonNull<u8>,
    chunks: usize,
    /// One bit per chunk; set when it is free.
    free: Box<[AtomicU64]>,
    free_count: AtomicUsize,
    used: Box<[Use]>,
    round: AtomicU32,
}

#[derive(Debug, Default)]
struct Use {
    /// Whether it may hold memory.
    resident: AtomicBool,
    /// The round in which it was last given back.
    round: AtomicU32,
}

// SAFETY: `base` and `mapping` are only addresses; a chunk's bytes are touched by whoever took its bit alone.
unsafe impl Send for Pool {}
// SAFETY: as above; everything else in it is atomic.
unsafe impl Sync for Pool {}

impl Pool {
    /// Reserves addresses for as many chunks as fit into `bytes`, at least one. Memory comes with first use.
    pub(super) fn new(bytes: u64) -> io::Result<Arc<Self>> {
        let chunks = usize::try_from(bytes).unwrap_or(usize::MAX / 2).max(CHUNK) / CHUNK;
        // SAFETY: a new anonymous mapping, at no given address.
        let mapping = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                length(chunks),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let mapping = NonNull::new(mapping.cast::<u8>()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the mapping is longer than the chunks by as much as this is at most.
        let base = unsafe { mapping.add(mapping.as_ptr().align_offset(HUGE_PAGE)) };
        // A chunk in one piece is one piece for the disk too, where it is 64 otherwise: writing it without the page cache
        // costs half. Where there are no huge pages, it costs what it costs.
        // SAFETY: the range is within the mapping, and its bytes stay.
        let _ = unsafe { madvise(base.as_ptr().cast(), chunks * CHUNK, Advice::LinuxHugepage) };
        let words = chunks.div_ceil(64);
        let bits = |word: usize| u64::MAX >> (64 - (chunks - word * 64).min(64));
        Ok(Arc::new(Self {
            mapping,
            base,
            chunks,
            free: (0..words).map(|word| bits(word).into()).collect(),
            free_count: chunks.into(),
            used: (0..chunks).map(|_| Use::default()).collect(),
            round: 0.into(),
        }))
    }

    /// The lowest free chunk.
    pub(super) fn take(self: &Arc<Self>) -> Option<Chunk> {
        for (word, bits) in self.free.iter().enumerate() {
            let mut seen = bits.load(Relaxed);
            while seen != 0 {
                match bits.compare_exchange_weak(seen, seen & (seen - 1), Acquire, Relaxed) {
                    Ok(_) => {
                        self.free_count.fetch_sub(1, Relaxed);
                        let index = word * 64 + seen.trailing_zeros() as usize;
                        self.used[index].resident.store(true, Relaxed);
                        return Some(Chunk { index, pool: Arc::clone(self) });
                    }
                    Err(now) => seen = now,
                }
            }
        }
        None
    }

    pub(super) const fn chunks(&self) -> usize {
        self.chunks
    }

    pub(super) fn free(&self) -> usize {
        self.free_count.load(Relaxed)
    }

    /// Has the memory that is kept anyway there before it is needed: the first touch of a page costs the consumer more
    /// than filling it. Linux 5.14; where this cannot be had, memory comes with first use.
    pub(super) fn populate(&self) {
        let bytes = KEPT.min(self.chunks) * CHUNK;
        // SAFETY: the mapping has at least that many bytes, and what is in them stays.
        let _ = unsafe { madvise(self.base.as_ptr().cast(), bytes, Advice::LinuxPopulateWrite) };
    }

    /// One round: gives the memory of chunks that were idle for [`IDLE_ROUNDS`] back to the system.
    pub(super) fn trim(&self) {
        let round = self.round.fetch_add(1, Relaxed) + 1;
        for index in KEPT..self.chunks {
            let use_ = &self.used[index];
            if !use_.resident.load(Relaxed) || round - use_.round.load(Relaxed) <= IDLE_ROUNDS {
                continue;
            }
            let (word, bit) = (&self.free[index / 64], 1 << (index % 64));
            if word.fetch_and(!bit, Acquire) & bit != 0 {
                // SAFETY: the bit is ours now, so nobody else refers to the chunk's bytes, and they stay mapped.
                if unsafe { madvise(self.address(index).cast(), CHUNK, Advice::LinuxDontNeed) }.is_ok() {
                    use_.resident.store(false, Relaxed);
                }
                word.fetch_or(bit, Release);
            }
        }
    }

    const fn address(&self, index: usize) -> *mut u8 {
        // SAFETY: `index` is below `chunks`, so the address is within the mapping.
        unsafe { self.base.as_ptr().add(index * CHUNK) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; chunks hold the pool, so there are none any more.
        let _ = unsafe { munmap(self.mapping.as_ptr().cast(), length(self.chunks)) };
    }
}

/// Bytes of the mapping that so many chunks are in.
const fn length(chunks: usize) -> usize {
    chunks * CHUNK + HUGE_PAGE
}

/// A taken chunk: [`CHUNK`] bytes, aligned to pages. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Chunk {
    index: usize,
    pool: Arc<Pool>,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: CHUNK mapped bytes that only this chunk refers to; anonymous memory is always initialised.
        unsafe { std::slice::from_raw_parts(self.pool.address(self.index), CHUNK) }
    }
}

impl DerefMut for Chunk {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pool.address(self.index), CHUNK) }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.pool.used[self.index].round.store(self.pool.round.load(Relaxed), Relaxed);
        self.pool.free[self.index / 64].fetch_or(1 << (self.index % 64), AcqRel);
        self.pool.free_count.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_handed_out_once_and_comes_back() {
        let pool = Pool::new(70 * CHUNK as u64 + 5).unwrap();
        let mut taken: Vec<Chunk> = std::iter::from_fn(|| pool.take()).collect();
        assert_eq!((taken.len(), pool.chunks(), pool.free()), (70, 70, 0));
        for (number, chunk) in taken.iter_mut().enumerate() {
            assert_eq!((chunk.len(), chunk.as_ptr() as usize % 4096), (CHUNK, 0));
            chunk.fill(number as u8);
        }
        for (number, chunk) in taken.iter().enumerate() {
            assert!(chunk.iter().all(|&byte| byte == number as u8));
        }
        let third = taken.remove(3);
        let address = third.as_ptr();
        drop(third);
        assert_eq!(pool.take().unwrap().as_ptr(), address);
        drop(taken);
        assert_eq!(pool.free(), 70);
    }

    #[test]
    fn idle_chunks_give_their_memory_back_and_read_as_zeros() {
        const USED: usize = KEPT + 40;
        let pool = Pool::new((USED + 4) as u64 * CHUNK as u64).unwrap();
        pool.populate();
        let mut taken: Vec<Chunk> = std::iter::from_fn(|| pool.take()).collect();
        taken.iter_mut().for_each(|chunk| chunk.fill(7));
        let held = taken.split_off(USED);
        drop(taken);
        let marked = |pool: &Arc<Pool>| {
            let taken: Vec<Chunk> = std::iter::from_fn(|| pool.take()).collect();
            taken.iter().filter(|chunk| chunk.contains(&7)).count()
        };
        (0..IDLE_ROUNDS).for_each(|_| pool.trim());
        assert_eq!(marked(&pool), USED, "not idle yet; and now used again");
        (0..IDLE_ROUNDS).for_each(|_| pool.trim());
        assert_eq!(marked(&pool), USED);
        (0..=IDLE_ROUNDS).for_each(|_| pool.trim());
        assert_eq!(marked(&pool), KEPT);
        assert!(held.iter().all(|chunk| chunk.iter().all(|&byte| byte == 7)));
        assert_eq!(pool.free(), USED);
    }

    #[test]
    fn threads_never_share_a_chunk() {
        let pool = Pool::new(40 * CHUNK as u64).unwrap();
        std::thread::scope(|scope| {
            for mark in 1..=4_u8 {
                let pool = &pool;
                scope.spawn(move || {
                    for _ in 0..2000 {
                        let mut chunks: Vec<Chunk> = (0..8).filter_map(|_| pool.take()).collect();
                        chunks.iter_mut().for_each(|chunk| chunk[..64].fill(mark));
                        assert!(chunks.iter().all(|chunk| chunk[..64].iter().all(|&byte| byte == mark)));
                    }
                });
            }
        });
        assert_eq!(pool.free(), 40);
    }
}
