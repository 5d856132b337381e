//! What a tap counts, per direction.

/// Which way a packet goes, seen from the pod; also the index into the counters map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The pod sends: ingress of the host interface, "outbound" in pcapng.
    FromPod = 0,
    /// The pod receives: egress of the host interface, "inbound" in pcapng.
    ToPod = 1,
}

/// One direction's counters on one CPU. `seen = unmatched + matched`, and
/// `matched = captured + sampled_out + rate_limited + ring_full`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionCounters {
    /// Packets that came by while the tap was not halted.
    pub seen: u64,
    /// Packets that the filter accepted.
    pub matched: u64,
    /// Packets handed to user space.
    pub captured: u64,
    /// Wire bytes of the packets in `captured` (original length, tag included).
    pub bytes: u64,
    /// Accepted packets that 1-in-N sampling left out.
    pub sampled_out: u64,
    /// Accepted packets over the rate limit.
    pub rate_limited: u64,
    /// Accepted packets for which the ring had no room.
    pub ring_full: u64,
    /// Captured packets that are longer than the largest record and were cut there (not by the snap length).
    pub truncated: u64,
}

impl DirectionCounters {
    /// Adds another CPU's, or an earlier tap's, counters.
    pub const fn add(&mut self, other: &Self) {
        self.seen += other.seen;
        self.matched += other.matched;
        self.captured += other.captured;
        self.bytes += other.bytes;
        self.sampled_out += other.sampled_out;
        self.rate_limited += other.rate_limited;
        self.ring_full += other.ring_full;
        self.truncated += other.truncated;
    }
}

const _: () = assert!(size_of::<DirectionCounters>() == 64);
