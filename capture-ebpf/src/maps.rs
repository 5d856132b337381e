//! The tap's maps and its read-only settings. Each tap has its own, so nothing here has a key.

use aya_ebpf::{
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use capture_common::{DIRECTION_BOTH, DirectionCounters, MAX_CAPTURED, TapControl, TapSettings};

/// Written into the object before it is loaded. The kernel freezes it: the verifier reads the values as constants and
/// drops the code that they switch off.
#[unsafe(no_mangle)]
pub(crate) static SETTINGS: TapSettings = TapSettings {
    snap_length: MAX_CAPTURED,
    headers_only: 0,
    direction: DIRECTION_BOTH,
    sample: 1,
    filtered: 1,
    tick_ns: 1,
    packet_cost: 0,
    packet_burst: 0,
    byte_cost: 0,
    byte_burst: 0,
    wakeup_bytes: 1 << 18,
};

/// One field of [`SETTINGS`], read so that the compiler does not take the value in this file for the real one.
macro_rules! setting {
    ($field:ident) => {
        $crate::maps::read_setting(&$crate::maps::SETTINGS.$field)
    };
}
pub(crate) use setting;

/// For [`setting!`].
#[inline(always)]
pub(crate) fn read_setting<T: Copy>(field: &T) -> T {
    // SAFETY: a reference is valid; volatile because the loader changes the value.
    unsafe { core::ptr::from_ref(field).read_volatile() }
}

/// What user space tells the running tap, through a mapping (`BPF_F_MMAPABLE`, Linux 5.5), and the rate buckets. Only
/// volatile and atomic accesses. As a global it is found without a look-up.
#[unsafe(no_mangle)]
pub(crate) static mut CONTROL: TapControl =
    TapControl { clock_offset: 0, halted: 0, padding: 0, packets_paid_until: 0, bytes_paid_until: 0 };

/// A pointer to one word of [`CONTROL`].
macro_rules! control {
    ($field:ident) => {
        &raw mut $crate::maps::CONTROL.$field
    };
}
pub(crate) use control;

/// By [`capture_common::Direction`].
#[map]
pub(crate) static COUNTERS: PerCpuArray<DirectionCounters> = PerCpuArray::with_max_entries(2, 0);

/// Finished blocks. The loader sets the size.
#[map]
pub(crate) static RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
