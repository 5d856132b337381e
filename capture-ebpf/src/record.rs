//! A ring record: a finished pcapng block (draft-ietf-opsawg-pcapng, section 4.3).

use capture_common::{
    BLOCK_OVERHEAD, CLASSES, DATA_OFFSET, Direction, EPB_TYPE, FLAG_INBOUND, FLAG_OUTBOUND,
};

use crate::{
    clock::boot_ns,
    frame::{Frame, opaque},
    maps::{RING, setting},
};

/// `BPF_RB_NO_WAKEUP`: the consumer looks by itself soon enough.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: u64 = 2;
/// `BPF_RB_AVAIL_DATA`: bytes that wait in the ring.
const AVAILABLE: u64 = 0;
/// How often a CPU asks how much waits: each time its count of wire bytes passes a multiple of 2 to this power.
const WAKEUP_CHECK: u32 = 15;
/// After rounding up to 4 the verifier takes a length for up to 3 bytes longer than it can be.
const ROUNDING: u32 = 3;
/// `epb_flags`: option code 2, length 4.
const FLAGS_OPTION: u32 = 4 << 16 | 2;

/// What goes into the block beside the packet's bytes.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) frame: Frame,
    /// Bytes of the frame to keep, at least 1, at most `MAX_CAPTURED` and the wire length.
    pub(crate) captured: u32,
    pub(crate) wire_length: u32,
    pub(crate) direction: Direction,
    /// What to add to the boot clock.
    pub(crate) clock_offset: u64,
    /// Wire bytes this CPU captured before.
    pub(crate) bytes_before: u64,
}

impl Block {
    /// Puts the block into the ring, in the smallest record that holds it. False if there is no room.
    #[inline(always)]
    pub(crate) unsafe fn emit(self) -> bool {
        let last = opaque(u64::from(self.captured).wrapping_sub(1));
        macro_rules! smallest {
            ($($class:literal)*) => {
                $(if last < u64::from(room(CLASSES[$class])) {
                    // SAFETY: there is room for `last + 1` bytes.
                    return unsafe { self.fill::<{ CLASSES[$class] }>(last + 1) };
                })*
            };
        }
        smallest!(0 1 2 3 4 5 6 7);
        false
    }

    #[inline(always)]
    unsafe fn fill<const CLASS: u32>(self, captured: u64) -> bool {
        // The verifier wants the size as a constant.
        let Some(mut record) = RING.reserve_bytes((CLASS + ROUNDING) as usize, 0) else {
            return false;
        };
        let filled = {
            let block = record.as_mut_ptr();
            // As `capture_common::padded`, in the width that the verifier follows.
            let padded = (captured + 3) & !3;
            // SAFETY: `captured` is at least 1 and padded at most `CLASS - BLOCK_OVERHEAD`.
            unsafe {
                let data = block.add(DATA_OFFSET as usize);
                // The last word first: what the packet does not cover stays zero.
                data.add(padded as usize - 4).cast::<u32>().write(0);
                if self.frame.copy::<CLASS>(data, captured) {
                    self.write_around(block, captured as u32, padded as u32);
                    true
                } else {
                    false
                }
            }
        };
        if filled {
            record.submit(self.wakeup());
        } else {
            // A packet shorter than its length says: never seen, but the verifier asks.
            record.discard(NO_WAKEUP);
        }
        filled
    }

    /// Everything of the block that is not the packet.
    #[inline(always)]
    unsafe fn write_around(self, block: *mut u8, captured: u32, padded: u32) {
        let total = BLOCK_OVERHEAD + padded;
        let time = boot_ns().wrapping_add(self.clock_offset);
        let flags = match self.direction {
            Direction::FromPod => FLAG_OUTBOUND,
            Direction::ToPod => FLAG_INBOUND,
        };
        // SAFETY: the caller's record holds the whole block.
        unsafe {
            let head = block.cast::<u32>();
            head.write(EPB_TYPE);
            head.add(1).write(total);
            head.add(2).write(0);
            head.add(3).write((time >> 32) as u32);
            head.add(4).write(time as u32);
            head.add(5).write(captured);
            head.add(6).write(self.wire_length);
            let tail = block.add((DATA_OFFSET + padded) as usize).cast::<u32>();
            tail.write(FLAGS_OPTION);
            tail.add(1).write(flags);
            tail.add(2).write(0);
            tail.add(3).write(total);
        }
    }

    /// Wakes the consumer when enough waits. Asking costs, so it is done every few packets only.
    #[inline(always)]
    fn wakeup(self) -> u64 {
        let after = self.bytes_before + u64::from(self.wire_length);
        if (self.bytes_before ^ after) >> WAKEUP_CHECK != 0 && RING.query(AVAILABLE) >= setting!(wakeup_bytes)
        {
            FORCE_WAKEUP
        } else {
            NO_WAKEUP
        }
    }
}

/// Packet bytes that a record of this class takes.
const fn room(class: u32) -> u32 {
    class - BLOCK_OVERHEAD
}
