//! A ring that nobody empties, and one that is emptied late.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use capture_common::TapSettings;

use crate::{
    harness::{Capture, Collector, Pod, RING, modes, settings, turn, wait_until},
    packets::noise,
};

const SENT: u64 = 5000;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_full_ring_is_counted_and_costs_no_other_tap_a_packet() {
    let _turn = turn();
    for mode in modes() {
        let (full, other) = (Pod::new(), Pod::new());
        let sink = Collector::default();
        sink.busy.store(true, Ordering::Relaxed);
        let mut capture = Capture::load(mode, &settings(), None, 64 << 10, sink.clone());
        capture.tap.attach(full.ifindex).unwrap();
        let beside = Capture::start(&other, mode, &settings(), None);
        for seed in 0..SENT {
            full.inside.send(&noise(200, seed));
            full.outside.send(&noise(200, seed));
            other.inside.send(&noise(200, seed));
        }
        capture.wait_for(2 * SENT);
        beside.wait_for(SENT);
        // Blocks that wait in the full ring hold up nobody.
        wait_until(|| u64::from(beside.sink.count.load(Ordering::Relaxed)) == SENT);
        let (packets, counters) = beside.stop();
        assert_eq!([packets.len() as u64, counters.from_pod.ring_full], [SENT, 0]);

        assert_eq!(sink.count.load(Ordering::Relaxed), 0);
        sink.busy.store(false, Ordering::Relaxed);
        let (packets, counters) = capture.stop();
        for direction in [counters.from_pod, counters.to_pod] {
            assert_eq!(direction.seen, SENT, "{mode:?}");
            assert_eq!(direction.captured + direction.ring_full, SENT, "{mode:?}");
            assert!(direction.ring_full > 0 && direction.captured > 0, "{direction:?}");
        }
        assert_eq!(packets.len() as u64, counters.total().captured);
        // What fitted is what came first, whole.
        assert_eq!(packets[0].data, noise(200, 0));
    }
}

/// The writers that are to make room may have to share a processor with the consumer.
#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn what_comes_into_a_ring_does_not_wake_a_consumer_that_waits_for_buffers() {
    const WAKE_UPS: u32 = 60;
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let settings = TapSettings { wakeup_bytes: 64 << 10, ..settings() };
        let sink = Collector::default();
        let mut capture = Capture::load(mode, &settings, None, RING, sink.clone());
        capture.tap.attach(pod.ifindex).unwrap();
        // Sends as much as wakes the consumer so many times, and returns how often it looked, and the milliseconds.
        let mut seed = 0;
        let mut send = || {
            let (before, begun) = (sink.ticks.load(Ordering::Relaxed), Instant::now());
            for _ in 0..WAKE_UPS {
                for _ in 0..24 {
                    pod.outside.send(&noise(1400, seed));
                    seed += 1;
                }
                thread::sleep(Duration::from_micros(300));
            }
            (sink.ticks.load(Ordering::Relaxed) - before, begun.elapsed().as_millis() as u32)
        };

        sink.busy.store(true, Ordering::Relaxed);
        let (ticks, milliseconds) = send();
        assert!(ticks <= 10 + milliseconds / 2, "{ticks} times in {milliseconds} ms");
        assert_eq!(sink.count.load(Ordering::Relaxed), 0);
        sink.busy.store(false, Ordering::Relaxed);
        wait_until(|| {
            u64::from(sink.count.load(Ordering::Relaxed)) == capture.tap.counters().unwrap().total().seen
        });
        let (ticks, milliseconds) = send();
        // More than once each 100 ms, as without any wake-up.
        assert!(ticks > 4 + milliseconds / 100, "{ticks} times in {milliseconds} ms");
        let (packets, counters) = capture.stop();
        assert_eq!([packets.len() as u64, counters.total().ring_full], [counters.total().seen, 0]);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_halted_tap_sees_nothing() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let capture = Capture::start(&pod, mode, &settings(), None);
        pod.outside.send(&noise(100, 1));
        capture.wait_for(1);
        capture.tap.control().set_halted(true);
        pod.outside.send(&noise(100, 2));
        capture.tap.control().set_halted(false);
        pod.outside.send(&noise(100, 3));
        capture.wait_for(2);
        let (packets, counters) = capture.stop();
        let data: Vec<_> = packets.into_iter().map(|packet| packet.data).collect();
        assert_eq!(data, [noise(100, 1), noise(100, 3)], "{mode:?}");
        assert_eq!(counters.to_pod.seen, 2);
    }
}
