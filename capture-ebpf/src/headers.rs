//! How much of a packet is headers: link, network and transport, nothing of the payload.
//!
//! A protocol that is not known here ends the headers where the one before it ended. Lengths that a packet claims are
//! only used to step on; what lies beyond the packet is cut by the caller.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;

use crate::frame::bytes;

/// Two addresses and the type.
const ETHERNET: u64 = 14;
/// More tags than this in a row are payload.
const MAX_TAGS: u32 = 3;
/// More extension headers than this in a row are payload.
const MAX_EXTENSIONS: u32 = 8;

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
    let (protocol, end) = extensions(skb, protocol, forget(end));
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
        let [next, length, fragment @ ..] = bytes::<4>(skb, end);
        let length = u64::from(length);
        let step = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => (length + 1) * 8,
            AUTHENTICATION => (length + 2) * 4,
            FRAGMENT => 8,
            _ => break,
        };
        // What follows in a later fragment is the middle of something.
        let later = protocol == FRAGMENT && u16::from_be_bytes(fragment) & 0xfff8 != 0;
        protocol = if later { NOTHING } else { next };
        end = forget(end + step);
    }
    (protocol, forget(end))
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

/// The same number, but the verifier knows only that it has 16 bits: of what is on the stack it remembers whole words.
#[inline(always)]
fn forget(number: u64) -> u64 {
    let mut stack = MaybeUninit::<u16>::uninit();
    // SAFETY: written before it is read.
    unsafe {
        stack.as_mut_ptr().write_volatile(number as u16);
        u64::from(stack.as_ptr().read_volatile())
    }
}
