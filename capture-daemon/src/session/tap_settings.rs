//! From a run's settings to what is fixed in its kernel program.

use std::time::Duration;

use capture_api::{Direction, Settings};
use capture_common::{DIRECTION_BOTH, DIRECTION_FROM_POD, DIRECTION_TO_POD, MAX_CAPTURED, TapSettings};

/// Units of a bucket's cost in a nanosecond: costs are given in 2^-20 ns.
const UNITS: u64 = 1 << 20;
/// How much of the rate may come at once: a hundredth of a second's worth. Small, so that a short capture's rate
/// is right too.
const BURST: Duration = Duration::from_millis(10);

/// What is fixed in the program of a tap with these settings and a ring of `ring_bytes`.
#[must_use]
pub(super) fn tap_settings(settings: &Settings, ring_bytes: u32) -> TapSettings {
    let burst = BURST.as_nanos() as u64;
    let packet_cost = settings.rate.packets_per_second.map_or(0, cost);
    TapSettings {
        snap_length: settings.snap_length.clamp(1, MAX_CAPTURED),
        headers_only: u32::from(settings.headers_only),
        direction: match settings.direction {
            Direction::Both => DIRECTION_BOTH,
            Direction::FromPod => DIRECTION_FROM_POD,
            Direction::ToPod => DIRECTION_TO_POD,
        },
        sample: settings.sample.max(1),
        packet_cost,
        packet_burst: burst,
        byte_cost: settings.rate.bytes_per_second.map_or(0, cost),
        byte_burst: burst,
        // Early enough that a full-rate flood does not fill the rest before the consumer comes.
        wakeup_bytes: u64::from(ring_bytes / 8),
    }
}

/// The time that one unit costs at `per_second`, in 2^-20 ns; at least 1, which is faster than any wire.
fn cost(per_second: u64) -> u64 {
    (1_000_000_000 * UNITS / per_second.max(1)).max(1)
}

/// Whether going from one to the other needs another program or another file.
#[must_use]
pub(super) fn needs_another_tap(old: &Settings, new: &Settings) -> bool {
    old.filter != new.filter
        || old.direction != new.direction
        || old.snap_length != new.snap_length
        || old.headers_only != new.headers_only
        || old.sample != new.sample
        || old.rate != new.rate
        || old.rotation != new.rotation
}
