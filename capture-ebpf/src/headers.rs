//! How much of a packet is headers: link, network and transport, nothing of the payload.
//!
//! A protocol that is not known here ends the headers where the one before it ended. Lengths that a packet claims are
//! only used to step on; what lies beyond the packet is cut by the caller.

use aya_ebpf::bindings::__sk_buff;

use crate::frame::load;

/// Two addresses and the type.
const ETHERNET: u32 = 14;
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

/// Length of the headers of the packet as the kernel holds it, without a tag beside it; may exceed the packet.
#[inline(never)]
pub(crate) fn length(skb: *mut __sk_buff) -> u32 {
    let mut end = ETHERNET;
    let mut kind = be16(skb, 12);
    for _ in 0..MAX_TAGS {
        if !matches!(kind, TYPE_VLAN | TYPE_QINQ | TYPE_QINQ_OLD) {
            break;
        }
        kind = be16(skb, end + 2);
        end += 4;
    }
    match kind {
        TYPE_IPV4 => ipv4(skb, end),
        TYPE_IPV6 => extensions(skb, byte(skb, end + 6), end + 40),
        _ => end,
    }
}

/// RFC 791, section 3.1.
#[inline(always)]
fn ipv4(skb: *mut __sk_buff, start: u32) -> u32 {
    let length = u32::from(byte(skb, start) & 0xf) * 4;
    let end = start + if length < 20 { 20 } else { length };
    if be16(skb, start + 6) & 0x1fff != 0 {
        // A later fragment holds the middle of something.
        return end;
    }
    extensions(skb, byte(skb, start + 9), end)
}

/// Steps over IPv6 extension headers (RFC 8200, section 4) and the authentication header, then adds the transport's.
#[inline(always)]
fn extensions(skb: *mut __sk_buff, first: u8, start: u32) -> u32 {
    let mut protocol = first;
    let mut end = start;
    for _ in 0..MAX_EXTENSIONS {
        let length = u32::from(byte(skb, end + 1));
        let step = match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6 => (length + 1) * 8,
            AUTHENTICATION => (length + 2) * 4,
            FRAGMENT => {
                if be16(skb, end + 2) & 0xfff8 != 0 {
                    return end + 8;
                }
                8
            }
            _ => return end + transport(skb, protocol, end),
        };
        protocol = byte(skb, end);
        end += step;
    }
    end
}

#[inline(always)]
fn transport(skb: *mut __sk_buff, protocol: u8, start: u32) -> u32 {
    match protocol {
        TCP => {
            let length = u32::from(byte(skb, start + 12) >> 4) * 4;
            if length < 20 { 20 } else { length }
        }
        UDP | ICMP | ICMPV6 => 8,
        SCTP => 12,
        _ => 0,
    }
}

/// The byte at `offset`; 0 beyond the packet.
#[inline(always)]
fn byte(skb: *mut __sk_buff, offset: u32) -> u8 {
    let mut value = 0u8;
    // SAFETY: there is room for one byte.
    unsafe { load(skb, offset, &raw mut value, 1) };
    value
}

/// The 16 bits at `offset`, in host order; 0 beyond the packet.
#[inline(always)]
fn be16(skb: *mut __sk_buff, offset: u32) -> u16 {
    let mut value = 0u16;
    // SAFETY: there is room for two bytes.
    unsafe { load(skb, offset, (&raw mut value).cast(), 2) };
    u16::from_be(value)
}
