//! Time.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;

/// Nanoseconds since boot, suspended time included. Linux 5.8.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: has no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}
