//! `capture-daemon filter`, as people call it.

use std::path::PathBuf;
use std::process::{Command, Output};

fn filter(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_capture-daemon"))
        .arg("filter")
        .args(arguments)
        .output()
        .expect("it starts")
}

fn error(arguments: &[&str]) -> String {
    let output = filter(arguments);
    assert!(!output.status.success(), "{arguments:?}: {output:?}");
    assert_eq!(output.stdout, b"", "{arguments:?}");
    String::from_utf8(output.stderr).expect("text")
}

fn said(arguments: &[&str]) -> String {
    let output = filter(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A frame with a type, and a payload that is given.
fn frame(kind: u16, payload: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &kind.to_be_bytes()[..], payload].concat()
}

/// An IPv4 packet with a protocol, between 10.0.0.1 and 10.0.0.2.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    [&header, payload].concat()
}

/// A pcap file, little-endian or not, with frames cut to `snap_length`.
fn pcap(name: &str, big_endian: bool, link_type: u32, snap_length: usize, frames: &[Vec<u8>]) -> PathBuf {
    let number = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
    let half = |half: u16| if big_endian { half.to_be_bytes() } else { half.to_le_bytes() };
    let mut file = number(0xa1b2_c3d4).to_vec();
    file.extend([half(2), half(4)].concat());
    file.extend([number(0), number(0), number(262_144), number(link_type)].concat());
    for frame in frames {
        let kept = &frame[..frame.len().min(snap_length)];
        file.extend([number(1), number(0), number(kept.len() as u32), number(frame.len() as u32)].concat());
        file.extend_from_slice(kept);
    }
    let path = std::env::temp_dir().join(format!("podtap-filter-{}-{name}.pcap", std::process::id()));
    std::fs::write(&path, file).expect("a file");
    path
}

/// Six frames: four of ICMP (one in a VLAN, one of 60,000 bytes, one that ends in its IPv4 header, behind the protocol),
/// one of UDP, one of ARP.
fn frames() -> Vec<Vec<u8>> {
    let icmp = ipv4(1, &[8, 0, 0, 0, 0, 1, 0, 1]);
    let mut long = frame(0x0800, &icmp);
    long.resize(60_000, 0x55);
    vec![
        frame(0x0800, &icmp),
        frame(0x8100, &[&[0, 7, 8, 0], &icmp[..]].concat()),
        long,
        frame(0x0800, &ipv4(17, &[0, 53, 0, 99, 0, 8, 0, 0])),
        frame(0x0806, &[0; 28]),
        frame(0x0800, &icmp[..10]),
    ]
}

#[test]
fn explain_lists_both_programs() {
    let listing = said(&["explain", "icmp"]);
    assert!(
        listing.starts_with("; classic BPF, by libpcap: 6 instructions\n(000) ldh      [12]\n"),
        "{listing}"
    );
    assert!(listing.contains("\n; eBPF, a function: 29 instructions"), "{listing}");
    assert!(listing.contains("\n(010) exit\n"), "{listing}");
}

#[test]
fn refusals_name_the_part_and_the_way_out() {
    let message = error(&["explain", "host www.example.org and tcp"]);
    assert!(message.contains("`www.example.org` is a name to be looked up"), "{message}");
    assert!(message.contains("write its address"), "{message}");
    assert!(error(&["explain", "inbound"]).contains("`direction`"));
    assert!(error(&["explain", "tcp porf 80"]).contains("`porf`"));
    assert!(error(&["test", "ip6 protochain 6", "/dev/null"]).contains("`protochain`"));
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn test_counts_the_packets_that_match_in_the_kernel() {
    for big_endian in [false, true] {
        let file = pcap(&format!("counts-{big_endian}"), big_endian, 1, usize::MAX, &frames());
        let path = file.to_str().expect("a path of text");
        for (expression, matched) in [
            ("", 6),
            ("icmp", 3),
            ("vlan 7 and icmp", 1),
            ("udp port 53", 1),
            ("arp", 1),
            ("ip", 4),
            ("len = 60000", 1),
            ("ether[59999] = 0x55", 1),
            ("len < 30", 1),
            ("ip host 10.0.0.2", 3),
            ("tcp", 0),
        ] {
            assert_eq!(
                said(&["test", expression, path]),
                format!("matched {matched} of 6\n"),
                "{expression}"
            );
        }
        std::fs::remove_file(file).expect("it was there");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn test_says_what_it_could_not_see() {
    let cut = pcap("cut", false, 1, 40, &frames());
    let said = said(&["test", "icmp", cut.to_str().expect("a path of text")]);
    let expected =
        "matched 3 of 6\n5 of them were cut when they were captured; the filter saw what is left\n";
    assert_eq!(said, expected);
    std::fs::remove_file(cut).expect("it was there");

    let raw = pcap("raw", false, 101, 40, &[]);
    assert!(
        error(&["test", "icmp", raw.to_str().expect("a path of text")]).contains("filters are for Ethernet")
    );
    std::fs::remove_file(raw).expect("it was there");
    assert!(error(&["test", "icmp", "/no/such/file"]).contains("No such file"));
}
