//! Frames as filters like them: well-formed ones of many protocols, and what is left of them after accidents.

use super::loopback::MIN_PARTED;
use super::random::Random;

pub(crate) const MACS: [[u8; 6]; 5] = [
    [0x02, 0, 0, 0, 0, 0x01],
    [0x02, 0, 0, 0, 0, 0x02],
    [0xff; 6],
    [0x01, 0x00, 0x5e, 0, 0, 0x01],
    [0x33, 0x33, 0, 0, 0, 0x01],
];
pub(crate) const IPV4: [[u8; 4]; 10] = [
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [10, 1, 2, 3],
    [192, 168, 1, 1],
    [192, 168, 1, 254],
    [172, 16, 5, 4],
    [224, 0, 0, 1],
    [239, 1, 2, 3],
    [255, 255, 255, 255],
    [0, 0, 0, 0],
];
pub(crate) const IPV6: [[u8; 16]; 5] = [
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0x20, 0x01, 0x0d, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
    [0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
];
pub(crate) const PORTS: [u16; 12] = [0, 1, 22, 53, 80, 443, 6000, 6004, 6008, 6081, 8080, 65535];
pub(crate) const VLANS: [u16; 5] = [0, 1, 7, 100, 4095];
pub(crate) const LABELS: [u32; 4] = [0, 16, 1024, 100_000];
pub(crate) const SESSIONS: [u16; 3] = [0, 1, 0x1234];
const IP_PROTOCOLS: [u8; 16] = [6, 6, 6, 17, 17, 17, 1, 58, 132, 2, 50, 51, 47, 89, 103, 112];
const TYPES: [u16; 14] = [
    0x0800, 0x0800, 0x0800, 0x86dd, 0x86dd, 0x0806, 0x8035, 0x8847, 0x8848, 0x8863, 0x8864, 0x809b, 0x6003,
    0x6004,
];

/// A frame, at most 300 bytes long; often not a good one.
pub(crate) fn frame(random: &mut Random) -> Vec<u8> {
    let mut frame = whole(random);
    match random.below(8) {
        // Cut off anywhere, or where a header ends.
        0 => frame.truncate(random.below(frame.len() + 1)),
        1 => frame.truncate(random.pick(&[14, 15, 16, 17, 18, 20, 22, 33, 34, 38, 54, 58])),
        // Bytes turned.
        2 => {
            for _ in 0..=random.below(6) {
                let at = random.below(frame.len());
                frame[at] = random.next() as u8;
            }
        }
        3 => {
            let mut tail = vec![0; random.below(64)];
            random.fill(&mut tail);
            frame.extend(tail);
        }
        4 if random.once_in(4) => {
            frame = vec![0; random.below(120)];
            random.fill(&mut frame);
        }
        _ => {}
    }
    frame
}

/// A frame made long enough to be of two parts, now and then a very long one, and the length of its first part: mostly one
/// that ends among the headers.
pub(crate) fn parted(random: &mut Random) -> (Vec<u8>, u16) {
    let mut frame = frame(random);
    frame.resize(frame.len().max(14), 0);
    let first = if random.once_in(8) { random.below(MIN_PARTED) } else { random.below(frame.len() + 8) };
    let longest = if random.once_in(64) { 200_000 } else { MIN_PARTED + 500 };
    let length = MIN_PARTED + random.below(longest - MIN_PARTED + 1);
    let start = frame.len();
    frame.resize(length, 0);
    random.fill(&mut frame[start..]);
    (frame, first as u16)
}

fn whole(random: &mut Random) -> Vec<u8> {
    let mut frame = Vec::with_capacity(160);
    ethernet(&mut frame, random, 0);
    frame
}

fn ethernet(out: &mut Vec<u8>, random: &mut Random, depth: usize) {
    out.extend(random.pick(&MACS));
    out.extend(random.pick(&MACS));
    for _ in 0..random.pick(&[0, 0, 0, 1, 1, 2]) {
        out.extend(random.pick(&[0x8100u16, 0x8100, 0x88a8, 0x9100]).to_be_bytes());
        out.extend((random.pick(&VLANS) | (random.below(16) as u16) << 12).to_be_bytes());
    }
    if random.once_in(10) {
        return llc(out, random);
    }
    let kind = if random.once_in(20) { random.next() as u16 } else { random.pick(&TYPES) };
    out.extend(kind.to_be_bytes());
    match kind {
        0x0800 => ipv4(out, random, depth),
        0x86dd => ipv6(out, random, depth),
        0x0806 | 0x8035 => arp(out, random),
        0x8847 | 0x8848 => mpls(out, random, depth),
        0x8863 | 0x8864 => pppoe(out, random, depth),
        _ => payload(out, random),
    }
}

/// 802.3: a length, service access points, and perhaps SNAP.
fn llc(out: &mut Vec<u8>, random: &mut Random) {
    out.extend((random.below(1501) as u16).to_be_bytes());
    let points = random.pick(&[0xaau8, 0xaa, 0x42, 0xfe, 0xe0, 0xf0, 0x06, 0xff]);
    out.extend([points, points, random.pick(&[3u8, 0, 1, 0x13])]);
    if points == 0xaa {
        out.extend(random.pick(&[[0u8, 0, 0], [8, 0, 7], [0, 0, 0x0c]]));
        out.extend(random.pick(&[0x0800u16, 0x809b, 0x80f3, 0x8137, 0x86dd]).to_be_bytes());
    }
    if points == 0xfe {
        out.push(random.pick(&[0x81u8, 0x82, 0x83]));
        out.extend([0u8; 3]);
        out.push(random.below(32) as u8);
    }
    payload(out, random);
}

fn ipv4(out: &mut Vec<u8>, random: &mut Random, depth: usize) {
    let options = if random.once_in(4) { random.below(11) } else { 0 };
    let header = if random.once_in(16) { random.below(16) } else { 5 + options };
    let version = if random.once_in(30) { random.below(16) } else { 4 };
    let protocol = if random.once_in(16) { random.next() as u8 } else { random.pick(&IP_PROTOCOLS) };
    let fragment = match random.below(8) {
        0 => random.next() as u16,
        1 => 0x2000,
        2 => random.below(0x2000) as u16,
        _ => random.pick(&[0u16, 0x4000]),
    };
    out.extend([(version << 4 | header) as u8, random.pick(&[0u8, 0, 0xb8, 0xff])]);
    out.extend((random.below(1600) as u16).to_be_bytes());
    out.extend((random.next() as u16).to_be_bytes());
    out.extend(fragment.to_be_bytes());
    out.extend([random.pick(&[1u8, 64, 128, 255]), protocol, 0, 0]);
    out.extend(random.pick(&IPV4));
    out.extend(random.pick(&IPV4));
    for _ in 0..options * 4 {
        out.push(random.next() as u8);
    }
    transport(out, random, protocol, depth);
}

fn ipv6(out: &mut Vec<u8>, random: &mut Random, depth: usize) {
    out.extend([0x60 | random.below(16) as u8, random.next() as u8, 0, 0]);
    out.extend((random.below(1500) as u16).to_be_bytes());
    let protocol = random.pick(&IP_PROTOCOLS);
    let extension = match random.below(4) {
        0 => Some(random.pick(&[0u8, 43, 44, 60])),
        _ => None,
    };
    out.extend([extension.unwrap_or(protocol), random.pick(&[1u8, 64, 255])]);
    out.extend(random.pick(&IPV6));
    out.extend(random.pick(&IPV6));
    if let Some(kind) = extension {
        let units = if kind == 44 { 0 } else { random.below(3) };
        out.extend([protocol, units as u8]);
        for _ in 0..6 + units * 8 {
            let byte = random.next() as u8;
            out.push(random.pick(&[0, 0, 1, byte]));
        }
    }
    transport(out, random, protocol, depth);
}

fn transport(out: &mut Vec<u8>, random: &mut Random, protocol: u8, depth: usize) {
    match protocol {
        6 => {
            out.extend(random.pick(&PORTS).to_be_bytes());
            out.extend(random.pick(&PORTS).to_be_bytes());
            out.extend((random.next() as u32).to_be_bytes());
            out.extend((random.pick(&[0u32, 1, 0xffff_ffff])).to_be_bytes());
            let words = if random.once_in(4) { random.below(16) } else { 5 };
            let flags = random.next() as u8;
            out.extend([(words << 4) as u8, random.pick(&[0x02, 0x10, 0x12, 0x18, 0x04, 0x11, flags])]);
            out.extend([0xffu8, 0xff, 0, 0, 0, 0]);
            for _ in 0..words.saturating_sub(5) * 4 {
                out.push(random.next() as u8);
            }
        }
        17 | 132 => {
            let (from, mut to) = (random.pick(&PORTS), random.pick(&PORTS));
            if random.once_in(6) {
                to = 6081;
            }
            out.extend(from.to_be_bytes());
            out.extend(to.to_be_bytes());
            out.extend((random.below(600) as u16).to_be_bytes());
            out.extend([0u8, 0]);
            if protocol == 17 && (from == 6081 || to == 6081) && depth < 2 {
                return geneve(out, random, depth);
            }
        }
        1 | 58 => out.extend([random.pick(&[0u8, 3, 5, 8, 11, 128, 129, 135]), random.below(4) as u8, 0, 0]),
        _ => {}
    }
    payload(out, random);
}

fn geneve(out: &mut Vec<u8>, random: &mut Random, depth: usize) {
    let options = if random.once_in(3) { random.below(6) } else { 0 };
    let version = if random.once_in(8) { 0x40 } else { 0 };
    out.extend([version | options as u8, 0]);
    let inner = random.pick(&[0x6558u16, 0x6558, 0x0800, 0x86dd]);
    out.extend(inner.to_be_bytes());
    out.extend([0, 0, random.pick(&[0u8, 7]), 0]);
    for _ in 0..options * 4 {
        out.push(random.next() as u8);
    }
    match inner {
        0x6558 => ethernet(out, random, depth + 1),
        0x0800 => ipv4(out, random, depth + 1),
        _ => ipv6(out, random, depth + 1),
    }
}

fn arp(out: &mut Vec<u8>, random: &mut Random) {
    out.extend([0u8, 1, 8, 0, 6, 4, 0, random.pick(&[1u8, 2, 3, 4])]);
    out.extend(random.pick(&MACS));
    out.extend(random.pick(&IPV4));
    out.extend(random.pick(&MACS));
    out.extend(random.pick(&IPV4));
}

fn mpls(out: &mut Vec<u8>, random: &mut Random, depth: usize) {
    let labels = 1 + random.below(3);
    for index in 0..labels {
        let bottom = u32::from(index + 1 == labels);
        let label = random.pick(&LABELS) << 12 | (random.below(8) as u32) << 9 | bottom << 8 | 64;
        out.extend(label.to_be_bytes());
    }
    if random.once_in(3) { ipv6(out, random, depth) } else { ipv4(out, random, depth) }
}

fn pppoe(out: &mut Vec<u8>, random: &mut Random, depth: usize) {
    out.extend([0x11, random.pick(&[0u8, 9])]);
    out.extend(random.pick(&SESSIONS).to_be_bytes());
    out.extend((random.below(500) as u16).to_be_bytes());
    let protocol = random.pick(&[0x0021u16, 0x0057, 0xc021, 0x0281]);
    out.extend(protocol.to_be_bytes());
    match protocol {
        0x0021 => ipv4(out, random, depth),
        0x0057 => ipv6(out, random, depth),
        _ => payload(out, random),
    }
}

fn payload(out: &mut Vec<u8>, random: &mut Random) {
    let start = out.len();
    out.resize(start + random.below(40), 0);
    random.fill(&mut out[start..]);
}
