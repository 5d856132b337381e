//! Time.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_boot_ns};

use crate::maps::setting;

/// Nanoseconds since boot, suspended time included. Linux 5.8.
#[inline(always)]
pub(crate) fn boot_ns() -> u64 {
    // SAFETY: has no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Nanoseconds since some time before the boot, suspended time left out, as of the last timer tick (at most 10 ms ago): next to
/// nothing beside the cost of the exact time, since the kernel puts reading its counter of ticks in the place of the call.
/// Linux 5.6.
#[inline(always)]
pub(crate) fn tick_ns() -> u64 {
    // SAFETY: has no arguments.
    unsafe { bpf_jiffies64() * u64::from(setting!(tick_ns)) }
}
