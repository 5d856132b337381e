//! The path of a packet through a tap.

use aya_ebpf::bindings::__sk_buff;
use capture_common::MAX_CAPTURED;

use crate::{
    filter::filter,
    frame::{Frame, forget},
    headers,
    maps::{COUNTERS, control, setting},
    rate,
    record::Block,
};

/// Looks at one packet, counts it and perhaps copies it. Returns nothing: what becomes of the packet is not decided
/// here. `direction` is a [`capture_common::Direction`].
#[inline(always)]
pub(crate) fn packet(skb: *mut __sk_buff, direction: u32) {
    // SAFETY: `skb` is the program's context; the counters are this CPU's, in a map that lives as long as the program.
    unsafe {
        if control!(halted).read_volatile() != 0 {
            return;
        }
        let Some(counters) = COUNTERS.get_ptr_mut(direction) else {
            return;
        };
        (*counters).seen += 1;
        // Without a filter even the call is saved.
        if setting!(filtered) != 0 && filter(skb) == 0 {
            return;
        }
        (*counters).matched += 1;
        if !rate::sampled((*counters).matched) {
            (*counters).sampled_out += 1;
            return;
        }
        let frame = Frame::new(skb);
        let wire_length = frame.wire_length();
        if !rate::allowed(wire_length) {
            (*counters).rate_limited += 1;
            return;
        }

        let mut captured = wire_length;
        if setting!(headers_only) != 0 {
            captured = captured.min(frame.with_tag(headers::length(skb)));
        }
        captured = forget(captured.min(u64::from(setting!(snap_length))));
        let block = Block { frame, captured, wire_length, direction, bytes_before: (*counters).bytes };
        if block.emit() {
            (*counters).captured += 1;
            (*counters).bytes += wire_length;
            if captured == LARGEST && wire_length > LARGEST {
                (*counters).truncated += 1;
            }
        } else {
            (*counters).ring_full += 1;
        }
    }
}

/// More of a packet fits no record.
const LARGEST: u64 = MAX_CAPTURED as u64;
