//! A packet as the wire had it: its length and bytes with the VLAN tag, which the kernel keeps beside the packet.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

/// Both MAC addresses: the tag stands behind them.
const ADDRESSES: u64 = 12;
/// Length of a VLAN tag: protocol and tag control information.
const TAG: u64 = 4;

/// A packet and what of it must be put back.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) skb: *mut __sk_buff,
    /// 1 when there is a tag beside the packet, else 0.
    tagged: u64,
}

impl Frame {
    #[inline(always)]
    pub(crate) unsafe fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: the caller passes the program's context.
        let tagged = unsafe { (*skb).vlan_present };
        // Without a branch: the verifier would follow all the rest twice.
        Self { skb, tagged: opaque(u64::from(tagged & 1)) }
    }

    /// Length on the wire, tag included.
    #[inline(always)]
    pub(crate) fn wire_length(self) -> u64 {
        // SAFETY: `skb` is the program's context.
        u64::from(unsafe { (*self.skb).len }) + self.tagged * TAG
    }

    /// What `bytes` of the packet without its tag are with it. Only for lengths beyond the addresses.
    #[inline(always)]
    pub(crate) fn with_tag(self, bytes: u64) -> u64 {
        bytes + self.tagged * TAG
    }

    /// The tag of a frame that is cut to `captured` bytes.
    #[inline(always)]
    pub(crate) fn tag(self, captured: u64) -> Tag {
        let reached = captured.saturating_sub(ADDRESSES);
        let length = forget(reached.min(TAG) & self.tagged.wrapping_neg());
        // SAFETY: `skb` is the program's context.
        let (protocol, control) = unsafe { ((*self.skb).vlan_proto, (*self.skb).vlan_tci) };
        let word = (protocol & 0xffff) | u32::from((control as u16).to_be()) << 16;
        let cut = settle(u64::from(word & !(u64::MAX << (8 * length)) as u32));
        Tag { length: length & Tag::MASK, word: cut as u32 }
    }

    /// Copies the packet's first `last + 1` bytes, with the tag where it belongs. False if the packet is shorter.
    #[inline(always)]
    pub(crate) unsafe fn copy(self, to: *mut u8, last: u64, tag: Tag) -> bool {
        // SAFETY: the caller vouches for room for both, and for 16 bytes in any case.
        unsafe {
            // What comes behind a whole tag is where it belongs then.
            if !load(self.skb, 0, to.add((tag.length & TAG) as usize), last + 1) {
                return false;
            }
            if tag.length != 0 {
                let words = to.cast::<u32>();
                if tag.length & TAG != 0 {
                    words.write(words.add(1).read());
                    words.add(1).write(words.add(2).read());
                    words.add(2).write(words.add(3).read());
                }
                words.add(3).write(tag.word);
            }
        }
        true
    }
}

/// The part of a VLAN tag that a frame of some length holds.
#[derive(Clone, Copy)]
pub(crate) struct Tag {
    /// Bytes of it, at most 4.
    length: u64,
    /// The tag as it is on the wire; what is beyond `length` is zero.
    word: u32,
}

impl Tag {
    /// What the verifier knows of a tag's length.
    pub(crate) const MASK: u64 = 7;

    /// Bytes of the frame that are the tag's.
    #[inline(always)]
    pub(crate) const fn length(self) -> u64 {
        self.length
    }
}

/// `N` bytes at `offset` of a packet; zeros if they are not all in it.
#[inline(always)]
pub(crate) fn bytes<const N: usize>(skb: *mut __sk_buff, offset: u64) -> [u8; N] {
    let mut bytes = MaybeUninit::<[u8; N]>::uninit();
    // SAFETY: there is room for `N` bytes. On failure the kernel fills it with zeros.
    unsafe {
        load(skb, offset, bytes.as_mut_ptr().cast(), N as u64);
        bytes.assume_init()
    }
}

/// The same number, but the compiler does not know where it comes from. A number that was bounded by a comparison
/// keeps its bound in the eyes of all verifiers only if exactly this number is compared and used: in
/// `opaque(length - 1) < limit`, the compiler cannot compare `length` instead.
#[inline(always)]
pub(crate) fn opaque(number: u64) -> u64 {
    let mut same = number;
    // SAFETY: no effect. Not empty, since that breaks BTF's line information.
    unsafe { asm!("{0} = {0}", inout(reg) same, options(pure, nomem, nostack)) };
    same
}

/// The same number, worked out here: the compiler cannot put that off.
#[inline(always)]
pub(crate) fn settle(number: u64) -> u64 {
    let mut same = number;
    // SAFETY: no effect, which the compiler is not told.
    unsafe { asm!("{0} = {0}", inout(reg) same, options(nostack)) };
    same
}

/// The same number, but the verifier knows only that it has 32 bits: of what is in half a word of the stack it remembers
/// nothing. All ways that lead here become one to it.
#[inline(always)]
pub(crate) fn forget(number: u64) -> u64 {
    #[repr(C, align(8))]
    struct Word([u32; 2]);
    let mut stack = MaybeUninit::<Word>::uninit();
    // SAFETY: written before it is read, inside of the word.
    unsafe {
        let half = stack.as_mut_ptr().cast::<u32>().add(1);
        half.write_volatile(number as u32);
        u64::from(half.read_volatile())
    }
}

/// Copies bytes of a packet, wherever the kernel has them. Changes nothing in it.
#[inline(always)]
pub(crate) unsafe fn load(skb: *mut __sk_buff, offset: u64, to: *mut u8, length: u64) -> bool {
    // SAFETY: the caller vouches for the room.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset as u32, to.cast(), length as u32) == 0 }
}
