//! A tap's ring buffer, mapped: blocks are read where the kernel wrote them.
//!
//! Layout (`kernel/bpf/ringbuf.c`): a page with the consumer's position, a page with the producer's, then the data,
//! mapped twice in a row so that a record never wraps; of the second time, which costs as much time and memory as the
//! first, podtap maps as much as its longest record needs. A record is a header of 8 bytes, whose first word is the length
//! and two flags, then the block.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use capture_common::{BLOCK_OVERHEAD, EPB_TYPE, LARGEST_CLASS, RECORD_SLACK};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::DatapathError;

/// Being filled by the kernel.
const BUSY: u32 = 1 << 31;
/// Given up by the kernel.
const DISCARDED: u32 = 1 << 30;
/// Bytes before each record.
const HEADER: u64 = 8;
/// The longest record of podtap's kernel programs, with its header, rounded up.
const LONGEST: u64 = (HEADER + (LARGEST_CLASS + RECORD_SLACK) as u64).next_multiple_of(8);
/// Give room back to the kernel at least after this many bytes.
const FREE_EVERY: u64 = 128 << 10;

/// What a sink did with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done with it.
    Next,
    /// It wants the same block later.
    Later,
}

/// A mapped ring. One reader.
#[derive(Debug)]
pub struct Ring {
    map: OwnedFd,
    consumer: Mapping,
    producer: Mapping,
    size: u64,
    page: usize,
    /// What was read so far; the kernel is told less often.
    position: u64,
    /// Records that were not a block. Only a kernel or a program gone wrong makes them.
    corrupt: u64,
}

#[derive(Debug)]
struct Mapping {
    address: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to no thread; `Ring` is its only user.
unsafe impl Send for Mapping {}

impl Mapping {
    fn new(
        map: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        protection: ProtFlags,
    ) -> Result<Self, DatapathError> {
        // SAFETY: a new mapping, anywhere.
        let address =
            unsafe { mmap(ptr::null_mut(), length, protection, MapFlags::SHARED, map, offset as u64) }
                .map_err(DatapathError::errno("map a ring"))?;
        let address = NonNull::new(address.cast()).ok_or(DatapathError::RingTaken)?;
        Ok(Self { address, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no reference into it is left.
        let _ = unsafe { munmap(self.address.as_ptr().cast(), self.length) };
    }
}

impl Ring {
    /// Maps a `BPF_MAP_TYPE_RINGBUF` of `size` bytes. Linux 5.8.
    #[doc(alias = "BPF_MAP_TYPE_RINGBUF")]
    pub(super) fn map(map: OwnedFd, size: u32) -> Result<Self, DatapathError> {
        let page = rustix::param::page_size();
        let overlap = (LONGEST as usize).next_multiple_of(page).min(size as usize);
        let data = size as usize + overlap;
        let consumer = Mapping::new(map.as_fd(), 0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        let producer = Mapping::new(map.as_fd(), page, page + data, ProtFlags::READ)?;
        Ok(Self { map, consumer, producer, size: u64::from(size), page, position: 0, corrupt: 0 })
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the page begins with this word and lives as long as `self`.
        unsafe { AtomicU64::from_ptr(self.consumer.address.as_ptr().cast()) }
    }

    /// How far the kernel has reserved.
    pub(super) fn produced(&self) -> u64 {
        // SAFETY: the page begins with this word and lives as long as `self`. It is mapped for reading only, which a
        // relaxed load of a word may be used on, and no other access.
        let produced = unsafe { AtomicU64::from_ptr(self.producer.address.as_ptr().cast()) }.load(Relaxed);
        fence(Acquire);
        produced
    }

    /// How far this reader is.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn corrupt(&self) -> u64 {
        self.corrupt
    }

    fn data(&self, position: u64) -> *mut u8 {
        let offset = self.page + (position & (self.size - 1)) as usize;
        // SAFETY: the data begins behind the producer's page, and the offset is within it.
        unsafe { self.producer.address.as_ptr().add(offset) }
    }

    /// Hands finished blocks to `take`, in order, up to position `until` or the first record that is not finished,
    /// and at most `quantum` bytes of ring.
    pub(super) fn read(
        &mut self,
        until: u64,
        quantum: u64,
        mut take: impl FnMut(&[u8]) -> Verdict,
    ) -> Progress {
        let start = self.position;
        let mut freed = start;
        let mut progress = Progress::Drained;
        while self.position < until {
            if self.position - start >= quantum {
                progress = Progress::More;
                break;
            }
            let record = self.data(self.position);
            // SAFETY: a record begins with this word, aligned to 8; the kernel publishes the block by it. Mapped for reading
            // only, as above.
            let header = unsafe { AtomicU32::from_ptr(record.cast()) }.load(Relaxed);
            fence(Acquire);
            if header & BUSY != 0 {
                // Its CPU is in the middle of it, and will be done before anybody notices.
                break;
            }
            let length = u64::from(header & !(BUSY | DISCARDED));
            let step = (length + HEADER).next_multiple_of(8);
            if self.position + step > until || step > LONGEST {
                // Not a record. Nothing behind it can be found either.
                self.corrupt += 1;
                self.position = until;
                break;
            }
            if header & DISCARDED == 0 {
                // SAFETY: the record is within what the kernel produced, at most once around the ring, and no longer than
                // what is mapped behind the ring's end; the kernel does not write to it before it is freed below.
                let bytes =
                    unsafe { std::slice::from_raw_parts(record.add(HEADER as usize), length as usize) };
                match block(bytes) {
                    Some(block) => {
                        if take(block) == Verdict::Later {
                            progress = Progress::Refused;
                            break;
                        }
                    }
                    None => self.corrupt += 1,
                }
            }
            self.position += step;
            if self.position - freed >= FREE_EVERY {
                self.free();
                freed = self.position;
            }
        }
        if self.position != freed {
            self.free();
        }
        progress
    }

    fn free(&self) {
        self.consumer_position().store(self.position, Release);
    }
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Everything that was there has been read.
    Drained,
    /// The quantum is used up.
    More,
    /// The sink wants the rest later.
    Refused,
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}

/// The pcapng block at the start of a record; `None` if there is none.
fn block(record: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| {
        let bytes = record.get(at..at + 4)?;
        Some(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    let total = word(4)?;
    let whole = word(0)? == EPB_TYPE
        && total >= BLOCK_OVERHEAD
        && total.is_multiple_of(4)
        && word(total as usize - 4) == Some(total);
    if whole { record.get(..total as usize) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epb(total: u32) -> Vec<u8> {
        let mut bytes = vec![0; total as usize];
        bytes[..4].copy_from_slice(&EPB_TYPE.to_ne_bytes());
        bytes[4..8].copy_from_slice(&total.to_ne_bytes());
        bytes[total as usize - 4..].copy_from_slice(&total.to_ne_bytes());
        bytes
    }

    #[test]
    fn block_ends_where_its_length_says() {
        let mut record = epb(108);
        record.resize(128, 0xff);
        assert_eq!(block(&record), Some(&record[..108]));
    }

    #[test]
    fn what_is_not_a_block_is_none() {
        assert_eq!(block(&[]), None);
        assert_eq!(block(&[0; 128]), None);
        assert_eq!(block(&epb(108)[..104]), None, "longer than its record");
        let mut wrong_type = epb(108);
        wrong_type[0] = 5;
        assert_eq!(block(&wrong_type), None);
        let mut wrong_trailer = epb(108);
        wrong_trailer[104] = 1;
        assert_eq!(block(&wrong_trailer), None);
        let mut unaligned = epb(108);
        unaligned[4] = 107;
        assert_eq!(block(&unaligned), None);
        let mut endless = epb(108);
        endless[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(block(&endless), None);
    }
}
