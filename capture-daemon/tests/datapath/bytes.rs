//! What is sent is what is in the block.

use std::time::{SystemTime, UNIX_EPOCH};

use capture_common::{DIRECTION_FROM_POD, DIRECTION_TO_POD, FLAG_INBOUND, FLAG_OUTBOUND, TapSettings};

use crate::{
    harness::{Capture, Pod, filter, modes, settings, turn},
    packets::noise,
};

/// Every class of ring record, and both sides of each boundary.
const LENGTHS: [usize; 23] = [
    14, 15, 16, 17, 60, 80, 81, 84, 85, 88, 208, 212, 213, 465, 468, 469, 977, 980, 981, 1400, 1511, 1513,
    1514,
];

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn blocks_hold_the_bytes_of_both_directions() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let capture = Capture::start(&pod, mode, &settings(), None);
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let before = now();
        for (seed, length) in LENGTHS.into_iter().enumerate() {
            pod.inside.send(&noise(length, seed as u64));
            capture.wait_for(2 * seed as u64 + 1);
            pod.outside.send(&noise(length, 1000 + seed as u64));
        }
        capture.wait_for(2 * LENGTHS.len() as u64);
        let after = now();
        let (packets, counters) = capture.stop();
        assert_eq!(packets.len(), 2 * LENGTHS.len(), "{mode:?}");
        for (pair, (seed, length)) in packets.as_chunks::<2>().0.iter().zip(LENGTHS.into_iter().enumerate()) {
            assert_eq!(pair[0].data, noise(length, seed as u64), "{mode:?}");
            assert_eq!(pair[0].flags, FLAG_OUTBOUND);
            assert_eq!(pair[1].data, noise(length, 1000 + seed as u64), "{mode:?}");
            assert_eq!(pair[1].flags, FLAG_INBOUND);
            assert_eq!([pair[0].original, pair[1].original], [length as u32; 2]);
        }
        assert!(packets.is_sorted_by_key(|packet| packet.time));
        // The clocks are compared to about a microsecond.
        assert!(before - 100_000 <= packets[0].time && packets[packets.len() - 1].time <= after + 100_000);
        let bytes = LENGTHS.iter().sum::<usize>() as u64;
        for direction in [counters.from_pod, counters.to_pod] {
            assert_eq!(direction.seen, LENGTHS.len() as u64);
            assert_eq!(direction.captured, LENGTHS.len() as u64);
            assert_eq!(direction.bytes, bytes);
            assert_eq!(direction.truncated, 0);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn one_direction_is_captured_and_counted_when_only_it_is_wanted() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        for (direction, flags) in [(DIRECTION_FROM_POD, FLAG_OUTBOUND), (DIRECTION_TO_POD, FLAG_INBOUND)] {
            let capture = Capture::start(&pod, mode, &TapSettings { direction, ..settings() }, None);
            for seed in 0..10 {
                pod.inside.send(&noise(100, seed));
                pod.outside.send(&noise(100, seed));
            }
            capture.wait_for(10);
            let (packets, counters) = capture.stop();
            assert_eq!(packets.len(), 10, "{mode:?}");
            assert!(packets.iter().all(|packet| packet.flags == flags), "{mode:?}");
            let (wanted, other) = match direction {
                DIRECTION_FROM_POD => (counters.from_pod, counters.to_pod),
                _ => (counters.to_pod, counters.from_pod),
            };
            assert_eq!([wanted.seen, other.seen], [10, 0]);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn only_what_the_filter_accepts_is_captured_and_all_is_counted() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let short = filter("len <= 100");
        let capture = Capture::start(&pod, mode, &settings(), Some(&short));
        for seed in 0..20 {
            pod.inside.send(&noise(91 + seed as usize, seed));
        }
        capture.wait_for(20);
        let (packets, counters) = capture.stop();
        let lengths: Vec<_> = packets.iter().map(|packet| packet.data.len()).collect();
        assert_eq!(lengths, (91..=100).collect::<Vec<_>>(), "{mode:?}");
        assert_eq!(
            [counters.from_pod.seen, counters.from_pod.matched, counters.from_pod.captured],
            [20, 10, 10]
        );
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn snap_length_cuts_the_bytes_and_keeps_the_original_length() {
    let _turn = turn();
    for mode in modes() {
        for snap_length in [1, 2, 3, 4, 5, 13, 14, 60, 81, 82, 128, 1000, 1499] {
            let pod = Pod::new();
            let capture = Capture::start(&pod, mode, &TapSettings { snap_length, ..settings() }, None);
            let sent = noise(1500, 7);
            pod.inside.send(&sent);
            capture.wait_for(1);
            let (packets, counters) = capture.stop();
            assert_eq!(packets.len(), 1);
            assert_eq!(packets[0].data, sent[..snap_length as usize], "{mode:?}");
            assert_eq!(packets[0].original, 1500);
            // Counted as it was on the wire, and not as cut by us.
            assert_eq!([counters.from_pod.bytes, counters.from_pod.truncated], [1500, 0]);
        }
    }
}
