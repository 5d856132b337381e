//! Expressions: a catalogue of all kinds, and a grammar that makes new ones.

use super::packets::{LABELS, PORTS, SESSIONS, VLANS};
use super::random::Random;

const IPV4: &[&str] = &["10.0.0.1", "10.0.0.2", "192.168.1.254", "224.0.0.1", "255.255.255.255"];
const NETS: &[&str] = &[
    "10.0.0.0/8",
    "10.0.0.0/30",
    "192.168.1.0/24",
    "192.168",
    "10",
    "10.1.2",
    "net 224.0.0.0/4",
    "0.0.0.0/0",
];
const IPV6: &[&str] = &["fe80::1", "2001:db8::1", "2001:db8:1::2", "ff02::1", "::1"];
const NETS6: &[&str] = &["2001:db8::/32", "fe80::/10", "2001:db8:1::/48", "::/0", "2001:db8::1/128"];
const MACS: &[&str] = &["02:00:00:00:00:01", "02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01"];
const DIRECTIONS: &[&str] = &["", "src ", "dst ", "src or dst ", "src and dst "];
const TRANSPORTS: &[&str] = &["", "tcp ", "udp ", "sctp "];
/// Words that are an expression of their own.
const PROTOCOLS: &[&str] = &[
    "ip",
    "ip6",
    "arp",
    "rarp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "sctp",
    "igmp",
    "igrp",
    "pim",
    "vrrp",
    "carp",
    "ah",
    "esp",
    "stp",
    "atalk",
    "aarp",
    "ipx",
    "netbeui",
    "decnet",
    "lat",
    "moprc",
    "mopdl",
    "iso",
    "clnp",
    "esis",
    "isis",
    "l1",
    "l2",
    "iih",
    "lsp",
    "snp",
    "csnp",
    "psnp",
    "ether broadcast",
    "broadcast",
    "ether multicast",
    "ip multicast",
    "multicast",
    "ip6 multicast",
    "ip broadcast",
    "pppoed",
    "pppoes",
    "mpls",
    "vlan",
    "geneve",
    "llc",
    "llc i",
    "llc s",
    "llc u",
    "llc xid",
    "llc test",
    "llc rr",
    "llc ui",
    "sca",
];
/// Whole expressions as people write them.
const EVERYDAY: &[&str] = &[
    "",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "tcp[tcpflags] == tcp-syn",
    "tcp[13] & 2 != 0 and not tcp[13] & 16 != 0",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
    "tcp port 80 and tcp[((tcp[12:1] & 0xf0) >> 2):4] = 0x47455420",
    "icmp[icmptype] == icmp-echo or icmp[icmptype] == icmp-echoreply",
    "icmp[icmptype] != icmp-echo and icmp[icmpcode] == 0",
    "icmp6[icmp6type] == icmp6-echo",
    "icmp6[0] = 135 or icmp6[0] = 136",
    "ip[6:2] & 0x1fff != 0",
    "ip[6] & 0x20 != 0 or ip[6:2] & 0x1fff != 0",
    "ip[0] & 0xf != 5",
    "ip[0] >> 4 != 4",
    "ip[8] < 5",
    "ip[1] & 0xfc == 0xb8",
    "ip6[6] = 44",
    "ip6[6] = 0 and ip6[40] = 58",
    "ip6 proto 44",
    "ip proto 47 or ip proto 50",
    "ip proto \\tcp",
    "ip proto \\icmp or ip6 proto \\tcp",
    "proto \\udp",
    "ether proto 0x0800",
    "ether proto \\arp",
    "ether proto 0x88cc or ether proto \\ip6",
    "ether proto 0x42 or ether proto 0xaa",
    "ether[0] & 1 = 0 and ip[16] >= 224",
    "ether[12:2] > 1500",
    "ether[12:4] = 0x81000064",
    "ether[10:4] != 0",
    "ether[11:2] = 0x0108",
    "ether[13:4] & 0xff00 = 0",
    "ether[14] = 0x45 or ether[15] = 0",
    "ether[15:4] > 0x1000",
    "ether[100000] = 1",
    "ether[ether[14]] = 0",
    "ether[ether[15]:4] > 7",
    "ether[ether[13]:2] != 0",
    "ip[ip[0] & 0xf] = 6",
    "ip[ip[2:2]:4] = 0",
    "ip[ip[4:4]] = 1",
    "udp[udp[4:2]:2] = 0",
    "ether[len - 1] = 0",
    "ether[len - 5:4] != 0",
    "ether[len:1] = 0",
    "len = 60",
    "len != 64",
    "len % 4 = 0",
    "len / 7 > 5",
    "len * len > 10000",
    "len - 100 > 200",
    "len - ip[2:2] = 14",
    "less 64",
    "greater 100",
    "not less 64 and not greater 128",
    "len >= 14 and len <= 100",
    "ip[2:2] / ip[8] > 3",
    "ip[2:2] % ip[1] = 0",
    "100 / ip[1] > 3",
    "ip[3] % ip[9] = 1",
    "1 << ip[9] = 64",
    "ip[4:4] >> ip[3] > 100",
    "ip[4:4] << ip[8] > 100",
    "ip[0] ^ ip[1] = 0x45",
    "ip[0] | ip[1] = 0x45",
    "-ip[1] > 5",
    "ip[2:2] * ip[4:2] > 1000000",
    "ip[4:4] + ip[4:4] < ip[4:4]",
    "ether[0:4] = ether[6:4]",
    "ip[12:4] = ip[16:4]",
    "tcp[0:2] = tcp[2:2]",
    "tcp[0:2] + tcp[2:2] = 533",
    "tcp[2:2] - tcp[0:2] > 100",
    "(ip[0] + ip[1]) * (ip[2] + ip[3]) - (ip[4] & ip[5]) > (len | 3)",
    "(tcp[0] + 2) * (tcp[1] + 3) % (tcp[2] + 5) < (tcp[3] - 7) ^ len",
    "link[12:2] = 0x0806",
    "arp[6:2] = 1",
    "arp[7] = 2 and arp[14:4] = 0x0a000001",
    "rarp[6:2] = 3",
    "sctp[0:2] = 80",
    "igmp[0] != 0",
    "pim[0] = 0",
    "vrrp[0] > 3",
    "udp[8:4] = 0",
    "udp[10:2] & 0x8000 = 0",
    "vlan and ip",
    "vlan and vlan and ip",
    "vlan 100 and tcp port 80",
    "vlan 100 and vlan 7 and udp",
    "vlan or arp",
    "vlan or ip",
    "not vlan",
    "not vlan and ip",
    "(vlan and ip) or ip",
    "vlan and not vlan 7",
    "vlan and host 10.0.0.1",
    "vlan and ip6 net 2001:db8::/32",
    "vlan and ip[8] > 64",
    "vlan and len > 70",
    "vlan and ether[16:2] = 0x0800",
    "vlan and mpls",
    "vlan and pppoes and ip",
    "mpls and ip",
    "mpls 16 and host 10.0.0.1",
    "mpls and mpls and tcp",
    "mpls 1024 and mpls 16 and udp port 53",
    "mpls and ip6",
    "pppoes and ip",
    "pppoes 1 and tcp port 80",
    "pppoes and ip6",
    "pppoes and host 10.0.0.2",
    "geneve 7",
    "geneve and ip",
    "geneve and tcp port 80",
    "geneve 7 and ip6",
    "geneve and vlan 100",
    "geneve and vlan and host 10.0.0.1",
    "geneve and ether host 02:00:00:00:00:01",
    "geneve and mpls and ip",
    "geneve and ip[8] > 1",
    "geneve and geneve",
    "vlan and geneve and icmp",
    "iso proto \\clnp",
    "isis proto 15",
    "tcp or udp or sctp",
    "(tcp or udp) and (port 53 or port 443)",
    "not (tcp or udp)",
    "not not tcp",
    "tcp and not port 22",
    "host 10.0.0.1 and host 10.0.0.2",
    "host 10.0.0.1 or 10.0.0.2 or 10.1.2.3",
    "src 10.0.0.1 and dst 10.0.0.2 and tcp dst port 443",
    "host 10.0.0.1 and not (port 80 or 443 or 8080)",
    "(host 10.0.0.1 or net 192.168.1.0/24) and not arp and (tcp port 80 or udp port 53 or icmp)",
    "ip and not net 10.0.0.0/8 and not multicast",
    "ip6 and (tcp or udp) and port 53",
    "ip or ip6 or arp",
    "arp host 10.0.0.1",
    "rarp net 10.0.0.0/8",
    "net 10.0.0.0 mask 255.255.255.0",
    "src net 192.168.1.0 mask 255.255.255.128",
    "port http or port domain",
    "tcp port https",
    "udp dst portrange 1-1024",
    "portrange 1-65535",
    "src portrange 53-80 and dst portrange 443-8080",
    "port 65535",
    "src port 0",
    "tcp src port 22 or tcp dst port 22",
    "((((((((tcp))))))))",
    "tcp && port 80 || udp && ! port 53",
    "1 = 1",
    "ip[0] = ip[0]",
    "ip and 5 > 3",
];

/// At least 300 expressions, each of which libpcap takes.
pub(crate) fn catalogue() -> Vec<String> {
    let mut all: Vec<String> = EVERYDAY.iter().chain(PROTOCOLS).map(|&text| text.to_owned()).collect();
    for direction in DIRECTIONS {
        all.extend(["10.0.0.1", "192.168.1.254"].map(|host| format!("{direction}host {host}")));
        all.extend(["ip", "arp"].map(|protocol| format!("{protocol} {direction}host 10.0.0.2")));
        all.extend(["2001:db8::1", "fe80::1"].map(|host| format!("ip6 {direction}host {host}")));
        all.extend(["10.0.0.0/8", "192.168.1.0/24"].map(|net| format!("{direction}net {net}")));
        all.extend(["2001:db8::/32", "fe80::/10"].map(|net| format!("{direction}net {net}")));
        all.push(format!("ether {direction}host 02:00:00:00:00:01"));
        for transport in TRANSPORTS {
            all.extend([80, 53].map(|port| format!("{transport}{direction}port {port}")));
            all.push(format!("{transport}{direction}portrange 6000-6008"));
        }
    }
    all.extend(VLANS.map(|vlan| format!("vlan {vlan}")));
    all.extend(LABELS.map(|label| format!("mpls {label}")));
    all.extend(SESSIONS.map(|session| format!("pppoes {session}")));
    all
}

/// A new expression; libpcap refuses some (types that exclude each other, too deep arithmetic).
pub(crate) fn generate(random: &mut Random) -> String {
    let mut text = String::new();
    // What moves all offsets behind it stands in front.
    if random.once_in(5) {
        text = format!("{} and ", encapsulation(random));
    }
    text.push_str(&expression(random, 3));
    text
}

fn expression(random: &mut Random, depth: usize) -> String {
    if depth == 0 {
        return primitive(random);
    }
    match random.below(8) {
        0 | 1 => format!("({} and {})", expression(random, depth - 1), expression(random, depth - 1)),
        2 | 3 => format!("({} or {})", expression(random, depth - 1), expression(random, depth - 1)),
        4 => format!("not {}", expression(random, depth - 1)),
        5 => relation(random),
        _ => primitive(random),
    }
}

fn primitive(random: &mut Random) -> String {
    let direction = random.pick(DIRECTIONS);
    match random.below(12) {
        0 | 1 => random.pick(PROTOCOLS).to_owned(),
        2 => format!("{direction}host {}", random.pick(IPV4)),
        3 => format!("{direction}net {}", random.pick(NETS).trim_start_matches("net ")),
        4 => format!("ip6 {direction}host {}", random.pick(IPV6)),
        5 => format!("{direction}net {}", random.pick(NETS6)),
        6 => format!("ether {direction}host {}", random.pick(MACS)),
        7 | 8 => format!("{}{direction}port {}", random.pick(TRANSPORTS), random.pick(&PORTS)),
        9 => {
            let (a, b) = (random.pick(&PORTS), random.pick(&PORTS));
            format!("{}{direction}portrange {}-{}", random.pick(TRANSPORTS), a.min(b), a.max(b))
        }
        10 => encapsulation(random),
        _ => random.pick(EVERYDAY).to_owned(),
    }
}

fn encapsulation(random: &mut Random) -> String {
    match random.below(7) {
        0 | 1 => format!("vlan {}", random.pick(&VLANS)),
        2 => "vlan".to_owned(),
        3 => format!("mpls {}", random.pick(&LABELS)),
        4 => format!("pppoes {}", random.pick(&SESSIONS)),
        5 => "geneve".to_owned(),
        _ => "pppoes".to_owned(),
    }
}

fn relation(random: &mut Random) -> String {
    let sign = random.pick(&["=", "!=", "<", ">", "<=", ">="]);
    format!("{} {sign} {}", arithmetic(random, 2), arithmetic(random, 1))
}

fn arithmetic(random: &mut Random, depth: usize) -> String {
    match random.below(if depth == 0 { 3 } else { 7 }) {
        0 => number(random),
        1 => "len".to_owned(),
        2 => accessor(random, 0),
        3 | 4 => accessor(random, depth - 1),
        5 => format!("({})", arithmetic(random, depth - 1)),
        _ => {
            let sign = random.pick(&["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"]);
            format!("({} {sign} {})", arithmetic(random, depth - 1), arithmetic(random, depth - 1))
        }
    }
}

fn accessor(random: &mut Random, depth: usize) -> String {
    let protocol = random.pick(&[
        "ether", "ether", "ether", "link", "ip", "ip", "ip6", "tcp", "udp", "icmp", "arp", "sctp", "icmp6",
    ]);
    let offset = match random.below(4) {
        0 if depth > 0 => arithmetic(random, depth),
        1 => random.below(20).to_string(),
        _ => random.below(60).to_string(),
    };
    format!("{protocol}[{offset}{}]", random.pick(&["", ":1", ":2", ":2", ":4", ":4"]))
}

fn number(random: &mut Random) -> String {
    match random.below(6) {
        0 => format!("{:#x}", random.next() as u32),
        1 => format!("{:#x}", random.next() as u16),
        2 => random
            .pick(&["0", "1", "31", "32", "0x7fffffff", "0x80000000", "0xffffffff", "0xfffffff0", "0xefff"])
            .to_owned(),
        _ => random.below(256).to_string(),
    }
}
