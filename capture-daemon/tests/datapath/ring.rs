//! A ring that nobody empties, and one that is emptied late.

use std::sync::atomic::Ordering;

use crate::{
    harness::{Capture, Collector, Pod, modes, settings, turn, wait_until},
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
