//! Headers-only captures keep the headers and nothing of the payload.

use capture_common::TapSettings;

use crate::{
    harness::{Capture, Pod, filter, modes, settings, turn},
    packets::{EXPERIMENT, IPV4, IPV6, QINQ, Random, VLAN, frame, ipv4, ipv6, tagged, tcp},
};

/// A frame, and how many of its bytes are headers.
type Case = (&'static str, Vec<u8>, usize);

fn cases() -> Vec<Case> {
    let payload = Random(99).bytes(300);
    let with = |header: &[u8]| [header, &payload].concat();
    let v4 = |protocol, header: &[u8]| frame(IPV4, &ipv4(protocol, 0, &[], &with(header)));
    let v6 = |next, header: &[u8]| frame(IPV6, &ipv6(next, &with(header)));
    // Extension headers: next header, length in 8 bytes beyond the first, content.
    let hop_by_hop = |next: u8| [&[next, 1][..], &[0xee; 14]].concat();
    let routing = |next: u8| [&[next, 2][..], &[0xee; 22]].concat();
    let fragment = |next: u8, offset: u16| {
        let offset = offset.to_be_bytes();
        vec![next, 0, offset[0], offset[1], 0, 0, 0, 1]
    };
    // Length in 4 bytes beyond the first two.
    let authentication = |next: u8| [&[next, 4][..], &[0xee; 22]].concat();
    let mut cases = vec![
        ("TCP over IPv4", v4(6, &tcp(&[])), 14 + 20 + 20),
        ("TCP with options", v4(6, &tcp(&[1; 40])), 14 + 20 + 60),
        ("UDP over IPv4", v4(17, &[0xee; 8]), 14 + 20 + 8),
        ("ICMP", v4(1, &[8, 0, 0, 0, 0, 0, 0, 0]), 14 + 20 + 8),
        ("SCTP", v4(132, &[0xee; 12]), 14 + 20 + 12),
        ("unknown over IPv4", v4(253, &[]), 14 + 20),
        ("ESP", v4(50, &[]), 14 + 20),
        ("IPv4 options", frame(IPV4, &ipv4(17, 0, &[1; 40], &with(&[0xee; 8]))), 14 + 60 + 8),
        ("first IPv4 fragment", frame(IPV4, &ipv4(17, 0x2000, &[], &with(&[0xee; 8]))), 14 + 20 + 8),
        ("later IPv4 fragment", frame(IPV4, &ipv4(17, 0x2010, &[], &payload)), 14 + 20),
        ("last IPv4 fragment", frame(IPV4, &ipv4(6, 0x0010, &[], &payload)), 14 + 20),
        ("TCP over IPv6", v6(6, &tcp(&[1; 12])), 14 + 40 + 32),
        ("UDP over IPv6", v6(17, &[0xee; 8]), 14 + 40 + 8),
        ("ICMPv6", v6(58, &[128, 0, 0, 0, 0, 0, 0, 0]), 14 + 40 + 8),
        ("SCTP over IPv6", v6(132, &[0xee; 12]), 14 + 40 + 12),
        ("unknown over IPv6", v6(253, &[]), 14 + 40),
        ("no next header", v6(59, &[]), 14 + 40),
        ("hop-by-hop", v6(0, &[hop_by_hop(17), vec![0xee; 8]].concat()), 14 + 40 + 16 + 8),
        (
            "four extension headers",
            v6(0, &[hop_by_hop(43), routing(60), hop_by_hop(51), authentication(6), tcp(&[])].concat()),
            14 + 40 + 16 + 24 + 16 + 24 + 20,
        ),
        ("first IPv6 fragment", v6(44, &[fragment(17, 1), vec![0xee; 8]].concat()), 14 + 40 + 8 + 8),
        ("later IPv6 fragment", v6(44, &fragment(17, 0x0101)), 14 + 40 + 8),
        ("authentication over IPv4", v4(51, &[authentication(17), vec![0xee; 8]].concat()), 14 + 20 + 24 + 8),
        (
            "destination, mobility, host identity, shim6",
            v6(60, &[routing(135), routing(139), routing(140), routing(17), vec![0xee; 8]].concat()),
            14 + 40 + 4 * 24 + 8,
        ),
        (
            "as many extension headers as RFC 8200 has",
            v6(
                0,
                &[
                    [hop_by_hop(60), hop_by_hop(43), routing(44), fragment(51, 1)].concat(),
                    [authentication(60), hop_by_hop(6), tcp(&[])].concat(),
                ]
                .concat(),
            ),
            14 + 40 + 16 + 16 + 24 + 8 + 24 + 16 + 20,
        ),
        (
            "more extension headers",
            v6(60, &[hop_by_hop(60).repeat(6), hop_by_hop(17)].concat()),
            14 + 40 + 6 * 16,
        ),
        ("unknown above 64, like hop-by-hop in its lower bits", v6(64, &hop_by_hop(17)), 14 + 40),
        ("unknown above 192, like shim6 in its lower bits", v6(204, &hop_by_hop(17)), 14 + 40),
        ("not IP", frame(EXPERIMENT, &payload), 14),
    ];
    let tagged_cases: Vec<Case> = [("TCP over IPv4", VLAN), ("UDP over IPv6", QINQ), ("not IP", VLAN)]
        .into_iter()
        .map(|(name, protocol)| {
            let (_, frame, length) = cases.iter().find(|case| case.0 == name).unwrap();
            (name, tagged(frame, protocol, 3), length + 4)
        })
        .collect();
    let (_, frame, length) = cases[0].clone();
    cases.extend(tagged_cases);
    cases.push(("two tags", tagged(&tagged(&frame, VLAN, 2), QINQ, 3), length + 8));
    cases.push(("three tags", tagged(&tagged(&tagged(&frame, VLAN, 1), VLAN, 2), QINQ, 3), length + 12));
    // Cut in the middle of a header: all of it is header.
    let mut short = v4(6, &tcp(&[1; 40]));
    short.truncate(14 + 20 + 30);
    cases.push(("cut TCP header", short, 14 + 20 + 30));
    let mut short = v6(0, &hop_by_hop(17));
    short.truncate(14 + 40 + 1);
    cases.push(("cut extension header", short, 14 + 40 + 1));
    cases
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn only_headers_are_kept() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        for (name, sent, length) in cases() {
            for from_pod in [true, false] {
                let capture =
                    Capture::start(&pod, mode, &TapSettings { headers_only: 1, ..settings() }, None);
                if from_pod { &pod.inside } else { &pod.outside }.send(&sent);
                capture.wait_for(1);
                let (packets, _) = capture.stop();
                assert_eq!(packets[0].data.len(), length, "{name}, {mode:?}");
                assert_eq!(packets[0].data, sent[..length], "{name}, {mode:?}");
                assert_eq!(packets[0].original as usize, sent.len(), "{name}, {mode:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn snap_length_also_cuts_headers() {
    let _turn = turn();
    let settings = TapSettings { headers_only: 1, snap_length: 40, ..settings() };
    for mode in modes() {
        let pod = Pod::new();
        let capture = Capture::start(&pod, mode, &settings, None);
        let (_, sent, _) = cases()[0].clone();
        pod.inside.send(&sent);
        capture.wait_for(1);
        assert_eq!(capture.stop().0[0].data, sent[..40]);
    }
}

/// The filter's own memory lies beside the program's.
#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_filter_that_remembers_numbers_spoils_nothing_of_what_is_kept() {
    let _turn = turn();
    let filter = filter("ip[2:2] - ((ip[0] & 0xf) << 2) - ((tcp[12] & 0xf0) >> 2) = 300");
    for mode in modes() {
        let pod = Pod::new();
        for (name, sent, length) in cases().into_iter().filter(|(name, ..)| name.starts_with("TCP")) {
            for headers_only in [0, 1] {
                let settings = TapSettings { headers_only, ..settings() };
                let capture = Capture::start(&pod, mode, &settings, Some(&filter));
                pod.inside.send(&sent);
                let matches = sent[12..14] == IPV4.to_be_bytes();
                capture.wait_for(1);
                let (packets, counters) = capture.stop();
                assert_eq!(packets.len(), usize::from(matches), "{name}, {mode:?}");
                assert_eq!(counters.total().matched, u64::from(matches), "{name}, {mode:?}");
                if let [packet] = &packets[..] {
                    let kept = if headers_only == 1 { length } else { sent.len() };
                    assert_eq!(packet.data, sent[..kept], "{name}, {mode:?}");
                }
            }
        }
    }
}
