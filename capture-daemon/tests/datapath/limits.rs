//! Sampling and rates.

use std::time::{Duration, Instant};

use capture_common::TapSettings;

use crate::{
    harness::{Capture, Pod, modes, settings, turn},
    packets::{IPV6, Packet, frame, ipv6, noise, tcp},
};

/// A tap's cost, in units of 2^-20 ns, of one of so many per second.
fn cost(per_second: u64) -> u64 {
    (1_000_000_000 << 20) / per_second
}

const BURST: u64 = 50_000_000;

/// Time passes in ticks of up to this for a tap, and packets that may pass come at once after each.
const TICK: u64 = 10_000_000;

/// How many of something there were per second: over the time measured, and over that in which the sender had its turn.
///
/// It is measured from when `BURST` is used up. A busy machine may leave the sender without its turn: it has saved up
/// something then, at most `BURST`, and a little later it has used that up again. What it would have had beyond that it
/// has lost.
fn rates(packets: &[Packet], amount: impl Fn(&Packet) -> u64) -> (f64, f64) {
    let gap = |pair: &[Packet]| pair[1].time.saturating_sub(pair[0].time);
    let mut undisturbed_since = packets[0].time;
    let begin = packets.windows(2).find_map(|pair| {
        if gap(pair) > 2 * TICK {
            undisturbed_since = pair[1].time;
        }
        (pair[1].time >= undisturbed_since + 2 * BURST).then_some(pair[1].time)
    });
    let begin = begin.expect("the sender had its turn for a tenth of a second");
    let steady = &packets[packets.partition_point(|packet| packet.time < begin)..];
    let last = steady[steady.len() - 1].time;
    let sum: u64 = steady.iter().filter(|packet| packet.time < last).map(&amount).sum();
    let lost: u64 = steady.windows(2).map(|pair| gap(pair).saturating_sub(BURST)).sum();
    let per_second = |time: u64| sum as f64 * 1e9 / time as f64;
    (per_second(last - begin), per_second(last - begin - lost))
}

/// Sends for a while, and returns how many packets came.
fn flood(pod: &Pod, frames: &[Vec<u8>]) -> u64 {
    let before = pod.received();
    let end = Instant::now() + Duration::from_millis(1500);
    let mut sent = 0_u64;
    while Instant::now() < end {
        for frame in frames {
            pod.inside.send(frame);
            sent += 1;
        }
        // Leave the other tests' machine some air; it is far above the limits all the same.
        if sent.is_multiple_of(256) {
            std::thread::yield_now();
        }
    }
    pod.received() - before
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn sampling_keeps_one_in_n() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let capture = Capture::start(&pod, mode, &TapSettings { sample: 10, ..settings() }, None);
        for seed in 0..1000 {
            pod.inside.send(&noise(60, seed));
        }
        capture.wait_for(1000);
        let (packets, counters) = capture.stop();
        // CPUs count by themselves.
        let cpus = std::thread::available_parallelism().unwrap().get();
        assert!(packets.len().abs_diff(100) <= cpus, "{mode:?}: {}", packets.len());
        assert_eq!(counters.from_pod.matched, 1000);
        assert_eq!(counters.from_pod.sampled_out, 1000 - packets.len() as u64);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn packet_rate_is_never_exceeded_by_two_percent_under_a_flood() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let limits = TapSettings { packet_cost: cost(2000), packet_burst: BURST, ..settings() };
        let capture = Capture::start(&pod, mode, &limits, None);
        let sent = flood(&pod, &[noise(60, 1)]);
        capture.wait_for(sent);
        let (packets, counters) = capture.stop();
        let (rate, in_turn) = rates(&packets, |_| 1);
        assert!(rate <= 2040.0 && in_turn >= 1700.0, "{mode:?}: {rate} {in_turn}");
        assert_eq!(counters.from_pod.rate_limited, sent - packets.len() as u64);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn byte_rate_holds_and_does_not_starve_large_packets() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        // The packet limit is never reached: packets that the byte limit refuses must not use it up.
        let limits = TapSettings {
            byte_cost: cost(1_000_000),
            byte_burst: BURST,
            packet_cost: cost(2500),
            packet_burst: BURST,
            ..settings()
        };
        let capture = Capture::start(&pod, mode, &limits, None);
        let sent = flood(&pod, &[noise(100, 1), noise(1400, 2)]);
        capture.wait_for(sent);
        let (packets, counters) = capture.stop();
        let (rate, in_turn) = rates(&packets, |packet| u64::from(packet.original));
        assert!(rate <= 1_020_000.0 && in_turn >= 850_000.0, "{mode:?}: {rate} {in_turn}");
        let large = packets.iter().filter(|packet| packet.original == 1400).count();
        assert!(large * 3 > packets.len(), "{mode:?}: {large} of {}", packets.len());
        assert_eq!(counters.from_pod.rate_limited, sent - packets.len() as u64);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_large_packet_at_the_lowest_rate_is_paid_for_in_full() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let limits = TapSettings { byte_cost: cost(1), byte_burst: BURST, ..settings() };
        let capture = Capture::start(&pod, mode, &limits, None);
        // 14 hours for this one; in 64 bits the product would have come round to less than half a second.
        const LENGTH: usize = 52_777;
        let large = frame(IPV6, &ipv6(6, &[&tcp(&[])[..], &[0; LENGTH - 74]].concat()));
        assert_eq!(large.len(), LENGTH);
        pod.inside.send_gso(&large, 74, 54);
        capture.wait_for(1);
        std::thread::sleep(Duration::from_millis(600));
        pod.inside.send_gso(&large, 74, 54);
        capture.wait_for(2);
        let (packets, counters) = capture.stop();
        assert_eq!((packets.len(), counters.from_pod.rate_limited), (1, 1), "{mode:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn sampling_keeps_its_share_of_what_comes_on_all_cpus_at_once() {
    let _turn = turn();
    const SAMPLE: u64 = 10;
    for mode in modes() {
        let pod = Pod::new();
        let capture = Capture::start(&pod, mode, &TapSettings { sample: SAMPLE as u32, ..settings() }, None);
        std::thread::scope(|scope| {
            for socket in [&pod.inside, &pod.outside] {
                scope.spawn(|| (0..20_000).for_each(|seed| socket.send(&noise(60, seed))));
            }
        });
        capture.wait_for(pod.received() + 20_000);
        let (_, counters) = capture.stop();
        let cpus = std::thread::available_parallelism().unwrap().get() as u64;
        for of in [counters.from_pod, counters.to_pod] {
            let kept = of.captured + of.ring_full;
            assert!(kept.abs_diff(of.matched / SAMPLE) <= cpus, "{mode:?}: {kept} of {}", of.matched);
        }
    }
}
