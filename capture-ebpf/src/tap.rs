//! The path of a packet through a tap.

use aya_ebpf::bindings::__sk_buff;
use capture_common::{Direction, MAX_CAPTURED};

use crate::{
    filter::filter,
    frame::Frame,
    headers,
    maps::{CONTROL, COUNTERS, setting},
    rate,
    record::Block,
};

/// Looks at one packet, counts it and perhaps copies it. Returns nothing: what becomes of the packet is not decided
/// here.
#[inline(always)]
pub(crate) fn packet(skb: *mut __sk_buff, direction: Direction) {
    let (Some(control), Some(counters)) = (CONTROL.get_ptr_mut(0), COUNTERS.get_ptr_mut(direction as u32))
    else {
        return;
    };
    // SAFETY: `skb` is the program's context; `control` and `counters` point into maps that live as long as the
    // program, the counters of this CPU only.
    unsafe {
        if (&raw const (*control).halted).read_volatile() != 0 {
            return;
        }
        (*counters).seen += 1;
        if filter(skb) == 0 {
            return;
        }
        (*counters).matched += 1;
        if !rate::sampled(control) {
            (*counters).sampled_out += 1;
            return;
        }
        let frame = Frame::new(skb);
        let wire_length = frame.wire_length();
        if !rate::allowed(control, wire_length) {
            (*counters).rate_limited += 1;
            return;
        }

        let snap_length = setting!(snap_length);
        let mut captured = wire_length;
        if setting!(headers_only) != 0 {
            captured = captured.min(frame.with_tag(headers::length(skb)));
        }
        captured = captured.min(snap_length);
        let block = Block {
            frame,
            captured,
            wire_length,
            direction,
            clock_offset: (&raw const (*control).clock_offset).read_volatile(),
            bytes_before: (*counters).bytes,
        };
        if block.emit() {
            (*counters).captured += 1;
            (*counters).bytes += u64::from(wire_length);
            if captured == MAX_CAPTURED && wire_length > MAX_CAPTURED {
                (*counters).truncated += 1;
            }
        } else {
            (*counters).ring_full += 1;
        }
    }
}
