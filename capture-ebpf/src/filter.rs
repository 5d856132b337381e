//! The place of the user's filter.

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;

/// Whether the packet is wanted: 0 is no.
///
/// This body accepts everything. The loader overwrites it with the translated expression; the padding is the room for
/// that, 4,096 instructions. It is skipped by a branch that the verifier knows to be always taken, so that it is
/// removed in one step.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn filter(skb: *mut __sk_buff) -> u32 {
    let verdict: u64;
    // SAFETY: sets r0 and jumps forwards within itself.
    unsafe {
        asm!(
            "w0 = 1",
            "if w0 == 1 goto +4096",
            ".rept 4096",
            "goto +0",
            ".endr",
            in("r1") skb,
            lateout("r0") verdict,
        );
    }
    verdict as u32
}
