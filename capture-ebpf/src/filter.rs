//! The place of the user's filter.

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;

/// Whether the packet is wanted: 0 is no.
///
/// This body accepts everything. The loader puts the translated expression in its place, so the compiler must not know
/// what it returns.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn filter(skb: *mut __sk_buff) -> u32 {
    let verdict: u64;
    // SAFETY: only sets r0.
    unsafe { asm!("w0 = 1", in("r1") skb, lateout("r0") verdict) };
    verdict as u32
}
