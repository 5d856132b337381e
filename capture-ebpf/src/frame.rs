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
    /// 4 when there is a tag beside the packet, else 0.
    tag_length: u64,
}

impl Frame {
    #[inline(always)]
    pub(crate) unsafe fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: the caller passes the program's context.
        let tagged = unsafe { (*skb).vlan_present };
        // Without a branch: the verifier would follow all the rest twice.
        Self { skb, tag_length: opaque(u64::from(tagged & 1)) * TAG }
    }

    /// Length on the wire, tag included.
    #[inline(always)]
    pub(crate) fn wire_length(self) -> u64 {
        // SAFETY: `skb` is the program's context.
        u64::from(unsafe { (*self.skb).len }) + self.tag_length
    }

    /// What `bytes` of the packet without its tag are with it. Only for lengths beyond the addresses.
    #[inline(always)]
    pub(crate) fn with_tag(self, bytes: u64) -> u64 {
        bytes + self.tag_length
    }

    /// Copies the frame's first `last + 1` bytes. False if the packet is shorter.
    #[inline(always)]
    pub(crate) unsafe fn copy(self, to: *mut u8, last: u64) -> bool {
        // SAFETY: the caller vouches for `last + 1` bytes of room, and for 16 in any case.
        unsafe {
            if self.tag_length == 0 || last < ADDRESSES {
                return load(self.skb, 0, to, last + 1);
            }
            if !load(self.skb, 0, to, ADDRESSES) {
                return false;
            }
            to.add(ADDRESSES as usize).cast::<u32>().write(self.tag(last));
            // Signed, so that verifiers see both bounds.
            let rest = opaque(last.wrapping_sub(ADDRESSES + TAG));
            rest.cast_signed() < 0 || load(self.skb, ADDRESSES, to.add((ADDRESSES + TAG) as usize), rest + 1)
        }
    }

    /// The tag as it is on the wire, of which what lies beyond byte `last` of the frame is zero.
    #[inline(always)]
    fn tag(self, last: u64) -> u32 {
        // SAFETY: `skb` is the program's context.
        let (protocol, control) = unsafe { ((*self.skb).vlan_proto, (*self.skb).vlan_tci) };
        let tag = (protocol & 0xffff) | u32::from((control as u16).to_be()) << 16;
        let end = ADDRESSES + TAG - 1;
        let missing = end - if last < end { last } else { end };
        tag & (u32::MAX >> (8 * missing))
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
