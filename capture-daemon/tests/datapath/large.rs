//! Packets that are larger than what a wire carries, as the kernel passes them between pods.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
};

use capture_common::MAX_CAPTURED;
use capture_daemon::datapath::AttachMode;

use crate::{
    harness::{Capture, INSIDE, Pod, filter, modes, run, settings, turn, within},
    packets::{IPV6, Packet, Random, VLAN, frame, ipv6, tagged, tcp},
};

/// Lets segments beyond 64 KiB, Ethernet header included, pass whole (BIG TCP, Linux 5.19).
fn allow_large(pod: &Pod) {
    let large = "gso_max_size 180000 gro_max_size 180000";
    run(&format!("ip link set {} {large}", pod.host));
    pod.exec(&format!("ip link set {INSIDE} {large}"));
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn largest_segments_are_captured_whole() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let payload = Random(5).bytes(65_535 - 60);
        let plain = frame(IPV6, &ipv6(6, &[&tcp(&[])[..], &payload].concat()));
        assert_eq!(plain.len(), 65_549);
        let with_tag = tagged(&plain, VLAN, 5);
        let mut sent = vec![&plain, &plain];
        allow_large(&pod);
        let capture = Capture::start(&pod, mode, &settings(), None);
        pod.inside.send_gso(&plain, 74, 54);
        pod.outside.send_gso(&plain, 74, 54);
        if mode == AttachMode::Tcx {
            // Cut before it comes to the sockets: no interface takes IPv4 or tagged segments of this size.
            pod.outside.send_gso(&with_tag, 78, 58);
            sent.push(&with_tag);
        }
        capture.wait_for(sent.len() as u64);
        let (mut packets, counters) = capture.stop();
        packets.sort_by_key(|packet| packet.original);
        assert_eq!(packets.len(), sent.len(), "{mode:?}");
        for (packet, sent) in packets.iter().zip(&sent) {
            assert_eq!([packet.original as usize, packet.data.len()], [sent.len(); 2]);
            // All but the TCP checksum, which is not there yet.
            let checksum = sent.len() - payload.len() - 4;
            assert_eq!(packet.data[..checksum], sent[..checksum], "{mode:?}");
            assert!(packet.data[checksum + 2..] == sent[checksum + 2..], "{mode:?}");
        }
        assert_eq!(counters.total().truncated, 0);
        assert_eq!(counters.total().bytes as usize, sent.iter().map(|sent| sent.len()).sum::<usize>());
    }
}

/// Sends bytes to the pod, and returns what was captured of that.
fn transfer(pod: &Pod, capture: Capture, address: &str, bytes: &[u8]) -> (Vec<Packet>, u64) {
    let listener = within(&pod.namespace, || TcpListener::bind(address).unwrap());
    let received = thread::spawn(move || {
        let mut received = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
        received
    });
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    drop(stream);
    assert!(received.join().unwrap() == bytes);
    let (packets, counters) = capture.stop();
    assert_eq!(counters.total().ring_full, 0);
    (packets, counters.to_pod.truncated)
}

/// Puts a TCP stream together from captured segments, by sequence number.
fn reassemble(packets: &[Packet], ip: usize) -> Vec<u8> {
    let mut segments = BTreeMap::new();
    let mut first = None;
    for packet in packets {
        let tcp = &packet.data[14 + ip..];
        let sequence = u32::from_be_bytes(tcp[4..8].try_into().unwrap());
        if tcp[13] & 2 != 0 {
            first = Some(sequence.wrapping_add(1));
        }
        let payload = &tcp[usize::from(tcp[12] >> 4) * 4..];
        // What is sent again may be shorter than it was the first time, or begin within it.
        let known = segments.entry(sequence.wrapping_sub(first.unwrap())).or_insert(payload);
        if payload.len() > known.len() {
            *known = payload;
        }
    }
    let mut stream: Vec<u8> = Vec::new();
    for (offset, payload) in segments {
        if !payload.is_empty() && offset < u32::MAX / 2 {
            let there = stream.len().checked_sub(offset as usize).expect("a segment is missing");
            stream.extend(payload.get(there..).unwrap_or_default());
        }
    }
    stream
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_tcp_stream_is_captured_byte_for_byte() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        run(&format!("ip addr add 10.253.77.1/24 dev {}", pod.host));
        pod.exec(&format!("ip addr add 10.253.77.2/24 dev {INSIDE}"));
        let bytes = Random(6).bytes(3 << 20);
        let to_pod = filter("tcp dst port 7777");
        let capture = Capture::start(&pod, mode, &settings(), Some(&to_pod));
        let (packets, truncated) = transfer(&pod, capture, "10.253.77.2:7777", &bytes);
        assert!(reassemble(&packets, 20) == bytes, "{mode:?}");
        assert!(packets.iter().all(|packet| packet.original as usize == packet.data.len()));
        assert!(packets.iter().any(|packet| packet.original > 10_000), "no segment was left whole");
        assert_eq!(truncated, 0);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn what_exceeds_the_largest_record_is_cut_and_counted() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        allow_large(&pod);
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", pod.host), "0").unwrap();
        pod.exec(&format!("sysctl -q -w net.ipv6.conf.{INSIDE}.disable_ipv6=0"));
        run(&format!("ip addr add fd77::1/64 dev {} nodad", pod.host));
        pod.exec(&format!("ip addr add fd77::2/64 dev {INSIDE} nodad"));
        let bytes = Random(7).bytes(16 << 20);
        let to_pod = filter("ip6 and greater 2000");
        let capture = Capture::start(&pod, mode, &settings(), Some(&to_pod));
        let (packets, truncated) = transfer(&pod, capture, "[fd77::2]:7777", &bytes);
        let cut: Vec<_> = packets.iter().filter(|packet| packet.original > MAX_CAPTURED).collect();
        assert!(!cut.is_empty(), "{mode:?}: no segment beyond 64 KiB");
        assert!(cut.iter().all(|packet| packet.data.len() == MAX_CAPTURED as usize));
        assert_eq!(truncated, cut.len() as u64, "{mode:?}");
        let whole = packets.iter().filter(|packet| packet.original <= MAX_CAPTURED);
        assert!({ whole }.all(|packet| packet.data.len() == packet.original as usize));
    }
}
