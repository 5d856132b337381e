//! A ring record: a finished pcapng block (draft-ietf-opsawg-pcapng, section 4.3).

use aya_ebpf::maps::ring_buf::RingBufBytes;
use capture_common::{BLOCK_OVERHEAD, CLASSES, DATA_OFFSET, EPB_TYPE, FLAG_OUTBOUND, RECORD_SLACK, padded};

use crate::{
    clock::boot_ns,
    frame::{Frame, Tag, forget, opaque, settle},
    maps::{RING, control, setting},
};

/// `BPF_RB_NO_WAKEUP`: the consumer looks by itself soon enough.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_FORCE_WAKEUP`.
const FORCE_WAKEUP: u64 = 2;
/// `BPF_RB_AVAIL_DATA`: bytes that wait in the ring.
const AVAILABLE: u64 = 0;
/// How often a CPU asks how much waits: each time its count of wire bytes passes a multiple of 2 to this power.
const WAKEUP_CHECK: u32 = 15;
/// `epb_flags`: option code 2, length 4.
const FLAGS_OPTION: u32 = 4 << 16 | 2;

/// What goes into the block beside the packet's bytes.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) frame: Frame,
    /// Bytes of the frame to keep, at least 1, at most `MAX_CAPTURED` and the wire length.
    pub(crate) captured: u64,
    pub(crate) wire_length: u64,
    /// A [`capture_common::Direction`].
    pub(crate) direction: u32,
    /// Wire bytes this CPU captured before.
    pub(crate) bytes_before: u64,
}

impl Block {
    /// Puts the block into the ring, in the smallest record that holds it. False if there is no room.
    ///
    /// The verifier walks through what follows [`reserve`] once for each class, and most of the time that it takes to load
    /// a tap is the verifier's. So all that can be done before is.
    #[inline(always)]
    pub(crate) unsafe fn emit(self) -> bool {
        let tag = self.frame.tag(self.captured);
        let total = BLOCK_OVERHEAD + padded(self.captured as u32);
        // SAFETY: the control words are in a map that lives as long as the program.
        let time = unsafe { boot_ns().wrapping_add(control!(clock_offset).read_volatile()) };
        let head = [
            settle(pair(EPB_TYPE, total)),
            settle(pair(0, (time >> 32) as u32)),
            settle(pair(time as u32, self.captured as u32)),
        ];
        let wakeup = self.wakeup();
        // In this form every verifier keeps the bound, and sees that there is at least one byte.
        let last = opaque(forget(self.captured - tag.length()).wrapping_sub(1));
        let Some(mut record) = reserve(last) else {
            return false;
        };
        // SAFETY: there is room for `last + 1` bytes, the tag, padding, and what goes around them.
        if unsafe { self.fill(record.as_mut_ptr(), head, last, tag) } {
            record.submit(wakeup);
            true
        } else {
            // A packet shorter than its length says: never seen, but the verifier asks.
            record.discard(NO_WAKEUP);
            false
        }
    }

    /// Writes the block: the head, `last + 1` bytes of the packet, and its tag. False if the packet is not what it says.
    #[inline(always)]
    unsafe fn fill(self, block: *mut u8, head: [u64; 3], last: u64, tag: Tag) -> bool {
        // `capture_common::padded`, in the width that the verifier follows.
        let padded = (last + 4 + tag.length()) & !3;
        // SAFETY: the caller vouches for the room.
        unsafe {
            block.cast::<[u64; 3]>().write(head);
            block.cast::<u32>().add(6).write(self.wire_length as u32);
            let data = block.add(DATA_OFFSET as usize);
            let tail = data.add(padded as usize).cast::<u32>();
            // The last word of the data: what the packet does not cover stays zero.
            tail.sub(1).write(0);
            tail.write(FLAGS_OPTION);
            // From the pod is outbound, to the pod inbound.
            tail.add(1).write(FLAG_OUTBOUND - self.direction);
            tail.add(2).write(0);
            tail.add(3).write((head[0] >> 32) as u32);
            self.frame.copy(data, last, tag)
        }
    }

    /// Wakes the consumer when enough waits. Asking costs, so it is done every few packets only.
    #[inline(always)]
    fn wakeup(self) -> u64 {
        let after = self.bytes_before + self.wire_length;
        if (self.bytes_before ^ after) >> WAKEUP_CHECK != 0 && RING.query(AVAILABLE) >= setting!(wakeup_bytes)
        {
            FORCE_WAKEUP
        } else {
            NO_WAKEUP
        }
    }
}

/// Two words that follow each other in a block, on this little-endian target.
#[inline(always)]
const fn pair(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

/// A record of the smallest class with room for `last + 1` bytes of a packet and its tag. The verifier follows each class
/// by itself, so the size is a constant to it.
#[inline(always)]
fn reserve(last: u64) -> Option<RingBufBytes<'static>> {
    let mut size = 0;
    macro_rules! smallest {
        ($class:literal $($larger:literal)*) => {
            if last < room($class) {
                size = CLASSES[$class] + RECORD_SLACK;
            } else {
                smallest!($($larger)*);
            }
        };
        () => {};
    }
    smallest!(0 1 2 3 4 5 6 7);
    if size == 0 {
        return None;
    }
    RING.reserve_bytes(size as usize, 0)
}

/// Packet bytes that a record of a class takes beside a tag.
const fn room(class: usize) -> u64 {
    (CLASSES[class] - BLOCK_OVERHEAD) as u64
}

const _: () = assert!(RECORD_SLACK as u64 == 3 + Tag::MASK);
const _: () =
    assert!(capture_common::FLAG_INBOUND == FLAG_OUTBOUND - capture_common::Direction::ToPod as u32);
