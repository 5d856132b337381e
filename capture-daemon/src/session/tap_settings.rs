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
        // The loader knows.
        filtered: 0,
        tick_ns: 0,
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

/// `settings`, with what `tap` fixes in its program and in its files: what is really in force.
#[must_use]
pub(super) fn as_tapped(settings: &Settings, tap: &Settings) -> Settings {
    Settings {
        filter: tap.filter.clone(),
        direction: tap.direction,
        snap_length: tap.snap_length,
        headers_only: tap.headers_only,
        sample: tap.sample,
        rate: tap.rate,
        rotation: tap.rotation,
        ..settings.clone()
    }
}

/// Whether a tap of `old` takes what one of `new` may not. Filters are not compared: no policy sets them.
#[must_use]
pub(super) fn tightens(old: &Settings, new: &Settings) -> bool {
    let lower = |old: Option<u64>, new: Option<u64>| new.is_some_and(|new| old.is_none_or(|old| new < old));
    new.headers_only && !old.headers_only
        || new.snap_length < old.snap_length
        || new.sample > old.sample
        || new.direction != old.direction && new.direction != Direction::Both
        || lower(old.rate.packets_per_second, new.rate.packets_per_second)
        || lower(old.rate.bytes_per_second, new.rate.bytes_per_second)
}

#[cfg(test)]
mod tests {
    use capture_api::{Caps, Defaults, Rate, from_annotations};
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_change_is_tighter_when_something_that_was_taken_may_not_be_taken_any_more() {
        let (loose, _) = from_annotations(
            &Default::default(),
            Timestamp::UNIX_EPOCH,
            &Defaults::default(),
            &Caps::default(),
        )
        .unwrap();
        let rate = |packets_per_second, bytes_per_second| Rate { packets_per_second, bytes_per_second };
        let tighter: [fn(&mut Settings); 4] = [
            |settings| settings.headers_only = true,
            |settings| settings.snap_length = 100,
            |settings| settings.sample = 2,
            |settings| settings.direction = Direction::FromPod,
        ];
        for change in tighter {
            let mut tight = loose.clone();
            change(&mut tight);
            assert!(tightens(&loose, &tight) && !tightens(&tight, &loose), "{tight:?}");
            assert!(needs_another_tap(&loose, &tight));
            assert_eq!(as_tapped(&loose, &tight), tight);
        }
        for (old, new) in [((None, None), (Some(5), None)), ((Some(5), Some(5)), (Some(9), Some(4)))] {
            let old = Settings { rate: rate(old.0, old.1), ..loose.clone() };
            let new = Settings { rate: rate(new.0, new.1), ..loose.clone() };
            assert!(tightens(&old, &new), "{:?} {:?}", old.rate, new.rate);
        }
        let other = Settings { filter: "udp".into(), ..loose.clone() };
        assert!(!tightens(&loose, &other) && !tightens(&loose, &loose));
    }
}
