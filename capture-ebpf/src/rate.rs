//! Sampling and the rate limit.
//!
//! A bucket is one word: the time until which the packets so far are paid for. A packet may pass while that is not
//! further ahead of now than the burst, and then pays its own time, so one large packet runs into debt instead of
//! waiting for a bucket that never gets large enough. Refusing writes nothing and asks only for the time of the last
//! timer tick, which keeps a flood cheap; the burst must be at least as long as a tick.
//!
//! There are plain atomic additions and no compare-and-swap: kernels before 5.12 refuse a program that holds one
//! anywhere. What that leaves open, for each bucket:
//! - CPUs that look at the same instant may each pass one packet. All of them are paid for, so the rate holds.
//! - CPUs that find the bucket idle at the same instant set it, and what one of them paid may be forgotten: one packet of
//!   each CPU but the last, and no more often than once in a tick. Under a flood a bucket is never idle, so then the rate
//!   holds; it is passed only by packets that come on many CPUs at the same instants, and seldom otherwise. A virtual CPU
//!   that is stopped just there, between its look and its writing, makes all forgotten that was paid meanwhile, at most a
//!   burst.

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;

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

/// True for one packet in `sample` of each direction on each CPU. `matched` of them came so far, with this one. CPUs share
/// no count: it would have to be read back in the same step, which takes Linux 5.12. Each begins elsewhere instead, so
/// that of a few packets on many CPUs no more are kept than of many on one.
#[inline(always)]
pub(crate) fn sampled(matched: u64) -> bool {
    /// Far from a divisor of anything: 2 to the power of 32 over the golden ratio.
    const STRIDE: u64 = 0x9e37_79b1;
    let sample = setting!(sample);
    if sample <= 1 {
        return true;
    }
    // SAFETY: has no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    (matched - 1 + u64::from(cpu) * STRIDE).is_multiple_of(u64::from(sample))
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
            pay(bytes, now, times(byte_cost, wire_length));
        }
    }
    true
}

/// What so many bytes cost, in ns. In two parts, since at the lowest rates the product has more than 64 bits.
#[inline(always)]
fn times(byte_cost: u64, bytes: u64) -> u64 {
    (byte_cost >> 20) * bytes + (((byte_cost & 0xf_ffff) * bytes) >> 20)
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
