//! A packet as the wire had it: its length and bytes with the VLAN tag, which the kernel keeps beside the packet.

use core::arch::asm;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};

/// Both MAC addresses: the tag stands behind them.
const ADDRESSES: u32 = 12;
/// Length of a VLAN tag: protocol and tag control information.
const TAG: u32 = 4;

/// A packet and what of it must be put back.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) skb: *mut __sk_buff,
    /// 4 when there is a tag beside the packet, else 0.
    tag_length: u32,
}

impl Frame {
    #[inline(always)]
    pub(crate) unsafe fn new(skb: *mut __sk_buff) -> Self {
        // SAFETY: the caller passes the program's context.
        let tagged = unsafe { (*skb).vlan_present } != 0;
        Self { skb, tag_length: if tagged { TAG } else { 0 } }
    }

    /// Length on the wire, tag included.
    #[inline(always)]
    pub(crate) fn wire_length(self) -> u32 {
        // SAFETY: `skb` is the program's context.
        unsafe { (*self.skb).len + self.tag_length }
    }

    /// What `bytes` of the packet without its tag are with it. Only for lengths beyond the addresses.
    #[inline(always)]
    pub(crate) fn with_tag(self, bytes: u32) -> u32 {
        bytes + self.tag_length
    }

    /// Copies the frame's first `length` bytes: 1 to `MOST`. False if the packet is shorter.
    #[inline(always)]
    pub(crate) unsafe fn copy<const MOST: u32>(self, to: *mut u8, length: u64) -> bool {
        // SAFETY: the caller vouches for `length` bytes of room, and for 16 in any case.
        unsafe {
            if self.tag_length == 0 || length <= u64::from(ADDRESSES) {
                return load(self.skb, 0, to, length as u32);
            }
            if !load(self.skb, 0, to, ADDRESSES) {
                return false;
            }
            self.write_tag(to.add(ADDRESSES as usize), length - u64::from(ADDRESSES));
            let last = opaque(length.wrapping_sub(u64::from(ADDRESSES + TAG) + 1));
            if last >= u64::from(MOST - ADDRESSES - TAG) {
                // Below zero: nothing is left.
                return true;
            }
            load(self.skb, ADDRESSES, to.add((ADDRESSES + TAG) as usize), last as u32 + 1)
        }
    }

    /// Writes 4 bytes, of which those beyond `length` are zero.
    #[inline(always)]
    unsafe fn write_tag(self, to: *mut u8, length: u64) {
        // SAFETY: the caller vouches for 4 bytes of room.
        unsafe {
            let protocol = (*self.skb).vlan_proto as u16;
            let control = ((*self.skb).vlan_tci as u16).to_be();
            let bytes = u32::from(protocol) | u32::from(control) << 16;
            let kept = if length >= u64::from(TAG) { u32::MAX } else { (1 << (8 * length)) - 1 };
            to.cast::<u32>().write_unaligned(bytes & kept);
        }
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

/// Copies bytes of a packet, wherever the kernel has them. Changes nothing in it.
#[inline(always)]
pub(crate) unsafe fn load(skb: *mut __sk_buff, offset: u32, to: *mut u8, length: u32) -> bool {
    // SAFETY: the caller vouches for the room.
    unsafe { bpf_skb_load_bytes(skb.cast(), offset, to.cast(), length) == 0 }
}
