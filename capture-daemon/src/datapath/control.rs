//! The words that a running tap reads, shared by mapping its control map: changing one is a store.

use std::{
    os::fd::BorrowedFd,
    ptr::{self, NonNull},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use capture_common::TapControl;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::DatapathError;

/// Bits of [`TapControl::halted`]: the tap is halted by whom it belongs to.
const HALTED: u32 = 1;
/// And held by who puts it into its place.
const HELD: u32 = 2;

/// A handle on a tap's control words; clones share them. They may outlive the tap.
#[derive(Clone, Debug)]
pub struct Control(Arc<Words>);

/// The mapping.
#[derive(Debug)]
pub(super) struct Words {
    control: NonNull<TapControl>,
    length: usize,
}

// SAFETY: the mapping belongs to no thread, and is only accessed by atomic operations.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Control {
    /// Maps the only element of the control map (`BPF_F_MMAPABLE`, Linux 5.5).
    pub(super) fn map(map: BorrowedFd<'_>) -> Result<Self, DatapathError> {
        let length = rustix::param::page_size();
        // SAFETY: a new mapping, anywhere.
        let address = unsafe {
            mmap(ptr::null_mut(), length, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
        }
        .map_err(DatapathError::errno("map a tap's control words"))?;
        let control = NonNull::new(address.cast()).ok_or(DatapathError::RingTaken)?;
        Ok(Self(Arc::new(Words { control, length })))
    }

    /// Makes the tap hand every packet on without looking at it, or look at packets again unless it is
    /// [held](Self::set_held). Takes effect at once for packets that come after; one that is under way may still arrive.
    pub fn set_halted(&self, halted: bool) {
        self.0.set(HALTED, halted);
    }

    /// Whether the tap was made to ignore its packets.
    #[must_use]
    pub fn is_halted(&self) -> bool {
        self.0.halted().load(Ordering::Acquire) & HALTED != 0
    }

    /// The same as [`set_halted`](Self::set_halted), for whoever puts the tap into its place: until that is done it is
    /// held, and letting go of it does not undo that it was halted meanwhile.
    pub fn set_held(&self, held: bool) {
        self.0.set(HELD, held);
    }

    /// Sets what to add to the boot clock to get UTC, in ns.
    pub fn set_clock_offset(&self, offset: i64) {
        self.0.clock_offset().store(offset.cast_unsigned(), Ordering::Relaxed);
    }

    pub(super) fn words(&self) -> &Arc<Words> {
        &self.0
    }

    pub(super) fn from_words(words: Arc<Words>) -> Self {
        Self(words)
    }
}

impl Words {
    fn set(&self, bit: u32, to: bool) {
        if to {
            self.halted().fetch_or(bit, Ordering::AcqRel);
        } else {
            self.halted().fetch_and(!bit, Ordering::AcqRel);
        }
    }

    fn halted(&self) -> &AtomicU32 {
        // SAFETY: the mapping lives as long as `self`, and the field is aligned.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.control.as_ptr()).halted) }
    }

    fn clock_offset(&self) -> &AtomicU64 {
        // SAFETY: the mapping lives as long as `self`, and the field is aligned.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.control.as_ptr()).clock_offset) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and no reference into it is left.
        let _ = unsafe { munmap(self.control.as_ptr().cast(), self.length) };
    }
}
