//! A tap takes the place of another without a gap and without an overlap.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use capture_common::{DIRECTION_FROM_POD, TapSettings};
use capture_daemon::datapath::AttachMode;

use crate::{
    crowd::{clear_egress, crowd_egress},
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
        wait_until(|| total(&taps).iter().sum::<u64>() >= pod.received() + sent[1]);
        assert_eq!(total(&taps), [pod.received(), sent[1]], "{mode:?}");
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

/// A tap of that direction that is taken over in vain by one of both goes on, and can be taken over once there is room.
#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_take_over_that_finds_no_room_leaves_the_old_tap_as_it_was() {
    let _turn = turn();
    if !modes().contains(&AttachMode::Tcx) {
        return;
    }
    let pod = Pod::new();
    let mut others = crowd_egress(pod.ifindex);
    let one_way = TapSettings { direction: DIRECTION_FROM_POD, ..settings() };
    let mut old = load(AttachMode::Tcx, &one_way);
    old.tap.attach(pod.ifindex).unwrap();
    let mut new = load(AttachMode::Tcx, &settings());
    let exchange = |packets: u64| {
        for seed in 0..packets {
            pod.inside.send(&noise(60, seed));
            pod.outside.send(&noise(60, seed));
        }
    };
    let seen = |tap: &Capture| {
        let counters = tap.tap.counters().unwrap();
        [counters.from_pod.seen, counters.to_pod.seen]
    };
    assert!(new.tap.take_over(&mut old.tap).is_err());
    assert_eq!((old.tap.attached(), new.tap.attached()), (Some(pod.ifindex), None));
    exchange(10);
    old.wait_for(10);
    assert_eq!((seen(&old), seen(&new)), ([10, 0], [0, 0]));
    others.pop();
    wait_until(|| new.tap.take_over(&mut old.tap).is_ok());
    exchange(5);
    new.wait_for(10);
    assert_eq!((seen(&old), seen(&new)), ([10, 0], [5, 5]));
    assert_eq!((old.tap.attached(), new.tap.attached()), (None, Some(pod.ifindex)));
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_take_over_that_fails_for_the_second_direction_is_undone_for_the_first() {
    let _turn = turn();
    if !modes().contains(&AttachMode::Tcx) {
        return;
    }
    let pod = Pod::new();
    let mut old = load(AttachMode::Tcx, &settings());
    old.tap.attach(pod.ifindex).unwrap();
    // Its link is dead now, and takes no other program.
    clear_egress(pod.ifindex);
    let mut new = load(AttachMode::Tcx, &settings());
    assert!(new.tap.take_over(&mut old.tap).is_err());
    assert_eq!((old.tap.attached(), new.tap.attached()), (Some(pod.ifindex), None));
    (0..10).for_each(|seed| pod.inside.send(&noise(60, seed)));
    old.wait_for(10);
    assert_eq!(new.tap.counters().unwrap().total().seen, 0);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_tap_that_is_halted_while_it_is_being_put_into_its_place_stays_so() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let mut capture = load(mode, &settings());
        let control = capture.tap.control().clone();
        control.set_held(true);
        capture.tap.attach(pod.ifindex).unwrap();
        pod.inside.send(&noise(60, 1));
        control.set_halted(true);
        control.set_held(false);
        pod.inside.send(&noise(60, 2));
        assert!(control.is_halted());
        assert_eq!(capture.tap.counters().unwrap().total().seen, 0, "{mode:?}");
        control.set_halted(false);
        pod.inside.send(&noise(60, 3));
        capture.wait_for(1);
    }
}
