//! How much of a packet is headers: link, network and transport, nothing of the payload.
//!
//! A protocol that is not known here ends the headers where the one before it ended. Lengths that a packet claims are
//! only used to step on; what lies beyond the packet is cut by the caller.

use aya_ebpf::bindings::__sk_buff;

use crate::frame::{bytes, forget, opaque};

/// Two addresses and the type.
const ETHERNET: u64 = 14;
/// More tags than this in a row are payload.
const MAX_TAGS: u32 = 3;
/// More extension headers than this in a row are payload: RFC 8200, section 4.1, has as many.
const MAX_EXTENSIONS: u32 = 6;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_VLAN: u16 = 0x8100;
const TYPE_QINQ: u16 = 0x88a8;
const TYPE_QINQ_OLD: u16 = 0x9100;

// https://www.iana.org/assignments/protocol-numbers
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;
const SCTP: u8 = 132;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// No protocol: nothing follows.
const NOTHING: u8 = 59;

/// Length of the headers of the packet as the kernel holds it, without a tag beside it; may exceed the packet.
///
/// Each step forgets how it got where it is ([`forget`]): otherwise the verifier would follow every combination of
/// headers.
#[inline(never)]
pub(crate) fn length(skb: *mut __sk_buff) -> u64 {
    let (kind, end) = link(skb);
    let (protocol, end) = match kind {
        TYPE_IPV4 => ipv4(skb, end),
        TYPE_IPV6 => (bytes::<1>(skb, end + 6)[0], end + 40),
        _ => (NOTHING, end),
    };
    let (protocol, end) = extensions(skb, forget(protocol.into()) as u8, forget(end));
    forget(end + transport(skb, protocol, end))
}

/// The type of what follows the Ethernet header and its tags, and where that begins.
#[inline(always)]
fn link(skb: *mut __sk_buff) -> (u16, u64) {
    let mut end = ETHERNET;
    let mut kind = u16::from_be_bytes(bytes(skb, 12));
    for _ in 0..MAX_TAGS {
        if !matches!(kind, TYPE_VLAN | TYPE_QINQ | TYPE_QINQ_OLD) {
            break;
        }
        kind = u16::from_be_bytes(bytes(skb, end + 2));
        end = forget(end + 4);
    }
    (kind, forget(end))
}

/// RFC 791, section 3.1.
#[inline(always)]
fn ipv4(skb: *mut __sk_buff, start: u64) -> (u8, u64) {
    let [version, _, _, _, _, _, fragment @ .., _, protocol] = bytes::<10>(skb, start);
    let length = u64::from(version & 0xf) * 4;
    let end = start + if length < 20 { 20 } else { length };
    if u16::from_be_bytes(fragment) & 0x1fff != 0 {
        // A later fragment holds the middle of something.
        return (NOTHING, end);
    }
    (protocol, end)
}

/// Steps over IPv6 extension headers (RFC 8200, section 4) and the authentication header (RFC 4302).
#[inline(always)]
fn extensions(skb: *mut __sk_buff, first: u8, start: u64) -> (u8, u64) {
    let mut protocol = first;
    let mut end = start;
    for _ in 0..MAX_EXTENSIONS {
        if !is_extension(protocol) {
            break;
        }
        let [next, length, fragment @ ..] = bytes::<4>(skb, end);
        // Without branches, which the verifier would follow in each header anew.
        let fragmented = equal(protocol, FRAGMENT);
        let authenticated = equal(protocol, AUTHENTICATION);
        // In units of 8 bytes beyond the first, or of 4 beyond the first two; not there in a fragment header.
        let units = u64::from(length) & fragmented.wrapping_sub(1);
        end = forget(end + ((units + 1 + authenticated) << (3 - authenticated)));
        // What follows in a later fragment is the middle of something.
        let later = fragmented & !equal(u16::from_be_bytes(fragment) & 0xfff8, 0u16);
        protocol = forget(u64::from(next) * (1 - later) + u64::from(NOTHING) * later) as u8;
    }
    (protocol, end)
}

/// Whether another protocol follows behind this one's header.
#[inline(always)]
fn is_extension(protocol: u8) -> bool {
    const LOW: u64 = 1 << HOP_BY_HOP | 1 << ROUTING | 1 << FRAGMENT | 1 << AUTHENTICATION | 1 << DESTINATION;
    const HIGH: u64 = 1 << (MOBILITY - 128) | 1 << (HOST_IDENTITY - 128) | 1 << (SHIM6 - 128);
    let word = u64::from(protocol) >> 6;
    let words = LOW & equal(word, 0u64).wrapping_neg() | HIGH & equal(word, 2u64).wrapping_neg();
    words >> (protocol & 63) & 1 != 0
}

/// 1 if both are the same, else 0, without a branch. Both are below 2 to the power of 63.
#[inline(always)]
fn equal(one: impl Into<u64>, other: impl Into<u64>) -> u64 {
    opaque(one.into() ^ other.into()).wrapping_sub(1) >> 63
}

#[inline(always)]
fn transport(skb: *mut __sk_buff, protocol: u8, start: u64) -> u64 {
    match protocol {
        TCP => {
            let length = u64::from(bytes::<1>(skb, start + 12)[0] >> 4) * 4;
            if length < 20 { 20 } else { length }
        }
        UDP | ICMP | ICMPV6 => 8,
        SCTP => 12,
        _ => 0,
    }
}
