//! The kernel side of a tap: sees each packet of one host interface and writes it as a finished pcapng block into
//! the tap's ring.
//!
//! Three entry points share one body, [`tap::packet`]. It returns nothing, and each entry point returns one constant,
//! so no packet can be dropped, redirected or answered here; and no helper that writes to a packet is called.

#![no_std]
#![no_main]
// Inline assembly for this target: the filter's room, atomic additions, and bounds that the verifier follows.
#![feature(asm_experimental_arch)]

mod clock;
mod filter;
mod frame;
mod headers;
mod maps;
mod rate;
mod record;
mod tap;

use aya_ebpf::bindings::__sk_buff;
use capture_common::{DIRECTION_FROM_POD, DIRECTION_TO_POD, Direction};

/// `TCX_NEXT` (also `TC_ACT_UNSPEC`): no opinion, the next program and the stack go on with the packet.
const NEXT: i32 = -1;
/// What a socket filter lets into its socket's own queue: nothing. The packet itself is not touched by it.
const NO_COPY: i32 = 0;
/// `__sk_buff::pkt_type` of a packet that the host sends (`linux/if_packet.h`).
const PACKET_OUTGOING: u32 = 4;

const FROM_POD: u32 = Direction::FromPod as u32;
const TO_POD: u32 = Direction::ToPod as u32;

/// Ingress of the host interface: what the pod sends. tcx, Linux 6.6.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn tc_ingress(skb: *mut __sk_buff) -> i32 {
    tap::packet(skb, FROM_POD);
    NEXT
}

/// Egress of the host interface: what the pod receives. tcx, Linux 6.6.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn tc_egress(skb: *mut __sk_buff) -> i32 {
    tap::packet(skb, TO_POD);
    NEXT
}

/// Both directions, as the filter of an `AF_PACKET` socket.
#[unsafe(no_mangle)]
#[unsafe(link_section = "socket")]
extern "C" fn packet_socket(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the kernel passes a valid context.
    let outgoing = unsafe { (*skb).pkt_type } == PACKET_OUTGOING;
    let (direction, unwanted) =
        if outgoing { (TO_POD, DIRECTION_FROM_POD) } else { (FROM_POD, DIRECTION_TO_POD) };
    if maps::setting!(direction) != unwanted {
        tap::packet(skb, direction);
    }
    NO_COPY
}

/// What the kernel looks for before it lets a program call helpers that are reserved for GPL-compatible ones.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // No checked operation is left in the programs: the verifier would not accept the loop.
    loop {}
}
