//! A tap takes the place of another without a gap and without an overlap.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use capture_common::{DIRECTION_FROM_POD, TapSettings};
use capture_daemon::datapath::AttachMode;

use crate::{
    harness::{Capture, Collector, Pod, RING, modes, settings, turn, wait_until},
    packets::noise,
};

fn load(mode: AttachMode, settings: &TapSettings) -> Capture {
    Capture::load(mode, settings, None, RING, Collector { keep_nothing: true, ..Collector::default() })
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn under_a_flood_every_packet_is_in_exactly_one_of_the_taps() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let settings = TapSettings { snap_length: 64, ..settings() };
        let mut taps = vec![load(mode, &settings)];
        taps[0].tap.attach(pod.ifindex).unwrap();
        let (stop, sent) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
        thread::scope(|scope| {
            for (socket, sent) in [&pod.inside, &pod.outside].into_iter().zip(&sent) {
                let stop = &stop;
                scope.spawn(move || {
                    let frame = noise(60, 1);
                    while !stop.load(Ordering::Relaxed) {
                        socket.send(&frame);
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            for _ in 0..10 {
                thread::sleep(Duration::from_millis(50));
                let mut next = load(mode, &settings);
                let old = taps.last_mut().unwrap();
                next.tap.take_over(&mut old.tap).unwrap();
                assert_eq!(old.tap.attached(), None);
                assert_eq!(next.tap.attached(), Some(pod.ifindex));
                // The old one is quiet from now on.
                let then = old.tap.counters().unwrap();
                thread::sleep(Duration::from_millis(5));
                assert_eq!(old.tap.counters().unwrap(), then);
                taps.push(next);
            }
            stop.store(true, Ordering::Relaxed);
        });
        let sent = sent.map(|sent| sent.load(Ordering::Relaxed));
        let total = |taps: &[Capture]| {
            taps.iter().fold([0, 0], |[from_pod, to_pod], tap| {
                let counters = tap.tap.counters().unwrap();
                [from_pod + counters.from_pod.seen, to_pod + counters.to_pod.seen]
            })
        };
        let dropped = || {
            let path = format!("/sys/class/net/{}/statistics/rx_packets", pod.host);
            std::fs::read_to_string(path).unwrap().trim().parse::<u64>().unwrap()
        };
        wait_until(|| total(&taps).iter().sum::<u64>() >= dropped() + sent[1]);
        // A flood may overrun the backlog before it gets to the tap: what the interface received counts.
        assert_eq!(total(&taps), [dropped(), sent[1]], "{mode:?}");
        for tap in taps {
            tap.stop();
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn directions_change_with_the_tap() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let one_way = TapSettings { direction: DIRECTION_FROM_POD, ..settings() };
        let mut taps: Vec<Capture> = Vec::new();
        for settings in [settings(), one_way, settings()] {
            let mut next = load(mode, &settings);
            match taps.last_mut() {
                None => next.tap.attach(pod.ifindex).unwrap(),
                Some(old) => next.tap.take_over(&mut old.tap).unwrap(),
            }
            let wanted = if settings.direction == DIRECTION_FROM_POD { 1 } else { 2 };
            pod.outside.send(&noise(60, 1));
            pod.inside.send(&noise(60, 1));
            next.wait_for(wanted);
            taps.push(next);
        }
        let seen: Vec<_> = taps
            .into_iter()
            .map(|tap| {
                let (_, counters) = tap.stop();
                [counters.from_pod.seen, counters.to_pod.seen]
            })
            .collect();
        assert_eq!(seen, [[1, 1], [1, 0], [1, 1]], "{mode:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_halted_tap_is_followed_by_a_halted_one() {
    let _turn = turn();
    let pod = Pod::new();
    let mut old = load(AttachMode::Socket, &settings());
    old.tap.attach(pod.ifindex).unwrap();
    old.tap.control().set_halted(true);
    let mut new = load(AttachMode::Socket, &settings());
    new.tap.take_over(&mut old.tap).unwrap();
    assert!(new.tap.control().is_halted());
}
