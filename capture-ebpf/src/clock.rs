//! Time.

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_ktime_get_coarse_ns};

/// Nanoseconds since boot, suspended time included. Linux 5.8.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: has no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Nanoseconds since boot, suspended time left out, as of the last timer tick (at most 10 ms ago): a fraction of the
/// cost of the exact time. Linux 5.11.
#[inline(always)]
pub(crate) fn tick_ns() -> u64 {
    // SAFETY: has no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}
