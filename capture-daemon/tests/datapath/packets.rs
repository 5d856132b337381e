//! Frames to send, and captured blocks taken apart.

/// An Enhanced Packet Block (draft-ietf-opsawg-pcapng, section 4.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) data: Vec<u8>,
    pub(crate) original: u32,
    /// `epb_flags`.
    pub(crate) flags: u32,
    /// ns since 1970.
    pub(crate) time: u64,
}

impl Packet {
    /// Takes a block apart; everything in it must be as the draft says.
    pub(crate) fn parse(block: &[u8]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(block[at..at + 4].try_into().unwrap());
        let captured = word(20) as usize;
        let end = 28 + captured.next_multiple_of(4);
        assert_eq!(word(0), 6);
        assert_eq!(word(4) as usize, block.len());
        assert_eq!(word(8), 0, "interface");
        assert!(block[28 + captured..end].iter().all(|byte| *byte == 0), "padding");
        assert_eq!([word(end), word(end + 8), word(end + 12)], [4 << 16 | 2, 0, block.len() as u32]);
        assert_eq!(end + 16, block.len());
        Self {
            data: block[28..28 + captured].to_vec(),
            original: word(24),
            flags: word(end + 4),
            time: u64::from(word(12)) << 32 | u64::from(word(16)),
        }
    }
}

/// Pseudo-random numbers (xorshift64*), the same each time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

pub(crate) const ADDRESSES: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
/// For local experiments (IEEE 802): nobody answers.
pub(crate) const EXPERIMENT: u16 = 0x88b5;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const QINQ: u16 = 0x88a8;

/// An Ethernet frame.
pub(crate) fn frame(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&ADDRESSES[..], &ethertype.to_be_bytes(), payload].concat()
}

/// A frame of `length` bytes whose content depends on `seed`.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    frame(EXPERIMENT, &Random(seed + 1).bytes(length - 14))
}

/// The frame with a tag in it.
pub(crate) fn tagged(frame: &[u8], protocol: u16, control: u16) -> Vec<u8> {
    [&frame[..12], &protocol.to_be_bytes(), &control.to_be_bytes(), &frame[12..]].concat()
}

/// An IPv4 packet with right lengths and checksum; `options` in multiples of 4.
pub(crate) fn ipv4(protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = ((header + payload.len()) as u16).to_be_bytes();
    let fragment = fragment.to_be_bytes();
    let mut packet = vec![0x40 | (header / 4) as u8, 0, total[0], total[1], 0, 1, fragment[0], fragment[1]];
    packet.extend([64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2]);
    packet.extend(options);
    let sum: u32 = packet.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet; extension headers are part of `payload`.
pub(crate) fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, length[0], length[1], next, 64];
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    packet.extend(payload);
    packet
}

/// A TCP header; `options` in multiples of 4.
pub(crate) fn tcp(options: &[u8]) -> Vec<u8> {
    let mut header = vec![0x30, 0x39, 0x00, 0x50, 0, 0, 0, 1, 0, 0, 0, 2];
    header.extend([((20 + options.len()) / 4 * 16) as u8, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    header.extend(options);
    header
}
