//! Sampling and the rate limit.
//!
//! A bucket is one word: the time until which the packets so far are paid for. A packet may pass while that is not
//! further ahead of now than the burst, and then pays its own time, so one large packet runs into debt instead of
//! waiting for a bucket that never gets large enough. Refusing writes nothing and asks only for the time of the last
//! timer tick, which keeps a flood cheap; the burst must be longer than a tick. Plain atomic additions, no
//! compare-and-swap: CPUs that decide at the same instant may each pass one packet more, but each packet is paid for,
//! so the rate holds.

use core::{arch::asm, ptr::read_volatile};

use crate::{
    clock::tick_ns,
    maps::{control, setting},
};

/// Adds to a word that other CPUs and the other direction share.
#[inline(always)]
unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: the caller passes a word in a map.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) word, in(reg) value) }
}

/// True for one packet in `sample`, counted over both directions and all CPUs.
#[inline(always)]
pub(crate) fn sampled() -> bool {
    let sample = setting!(sample);
    if sample <= 1 {
        return true;
    }
    // SAFETY: words of the tap's control map.
    unsafe {
        let count = control!(sampled);
        add(count, 1);
        (read_volatile(count) - 1).is_multiple_of(u64::from(sample))
    }
}

/// Whether the rates allow a packet of this many wire bytes; pays for it if so.
#[inline(always)]
pub(crate) fn allowed(wire_length: u64) -> bool {
    let packet_cost = setting!(packet_cost);
    let byte_cost = setting!(byte_cost);
    if packet_cost == 0 && byte_cost == 0 {
        return true;
    }
    let now = tick_ns();
    // SAFETY: words of the tap's control map.
    unsafe {
        let packets = control!(packets_paid_until);
        let bytes = control!(bytes_paid_until);
        // Both are asked before either is paid.
        if packet_cost != 0 && read_volatile(packets) > now + setting!(packet_burst) {
            return false;
        }
        if byte_cost != 0 && read_volatile(bytes) > now + setting!(byte_burst) {
            return false;
        }
        if packet_cost != 0 {
            pay(packets, now, packet_cost >> 20);
        }
        if byte_cost != 0 {
            pay(bytes, now, (byte_cost * wire_length) >> 20);
        }
    }
    true
}

#[inline(always)]
unsafe fn pay(paid_until: *mut u64, now: u64, cost: u64) {
    // SAFETY: the caller passes a word in a map.
    unsafe {
        if read_volatile(paid_until) < now {
            // Idle until now: nothing is saved up beyond the burst.
            paid_until.write_volatile(now + cost);
        } else {
            add(paid_until, cost);
        }
    }
}
