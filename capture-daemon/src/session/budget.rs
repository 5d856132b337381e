//! How much memory taps may hold in rings.
//!
//! The first taps get large rings, later ones smaller ones, until nothing is left and a capture is refused: what
//! is granted is never taken back, so a capture that runs is never hurt by one that comes later.

/// The node's memory for rings.
#[derive(Debug)]
pub struct RingBudget {
    total: u64,
    used: u64,
}

const MIB: u32 = 1 << 20;
/// The largest: a core's full-rate flood of full packets fills it in some 15 ms, for which the agent's own core may
/// well be away on a virtual machine.
const LARGEST_RING: u32 = 16 * MIB;
/// The smallest ring that a tap is given, in bytes.
const SMALLEST_RING: u32 = MIB;

impl RingBudget {
    /// The part of the agent's `memory` budget, in bytes, that goes to rings; the rest is for buffers.
    #[must_use]
    pub const fn of(memory: u64) -> Self {
        Self { total: Self::share(memory), used: 0 }
    }

    /// Bytes of a `memory` budget that rings may take: five eighths.
    #[must_use]
    pub const fn share(memory: u64) -> u64 {
        memory / 8 * 5
    }

    /// Memory for one more ring, in bytes, or nothing when there is not even room for the smallest.
    pub const fn grant(&mut self) -> Option<u32> {
        let ring = self.next();
        if self.used + ring as u64 > self.total {
            return None;
        }
        self.used += ring as u64;
        Some(ring)
    }

    /// Bytes of the ring that the next tap is granted, if it still fits.
    #[must_use]
    pub const fn next(&self) -> u32 {
        if self.used < self.total / 16 && self.total >= 8 * LARGEST_RING as u64 {
            LARGEST_RING
        } else if self.used < self.total / 8 {
            4 * MIB
        } else if self.used < self.total / 4 {
            2 * MIB
        } else {
            SMALLEST_RING
        }
    }

    /// Bytes that are granted.
    #[must_use]
    pub const fn used(&self) -> u64 {
        self.used
    }

    /// Bytes that can be granted.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// As [`Self::grant`], at most so many bytes, a power of two of at least the smallest ring.
    pub const fn grant_at_most(&mut self, most: u32) -> Option<u32> {
        match self.grant() {
            Some(ring) if ring > most => {
                self.used -= (ring - most) as u64;
                Some(most)
            }
            granted => granted,
        }
    }

    /// Gives back what [`Self::grant`] gave.
    pub const fn release(&mut self, ring: u32) {
        self.used -= ring as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taps(memory_mib: u64) -> usize {
        let mut budget = RingBudget::of(memory_mib << 20);
        std::iter::from_fn(|| budget.grant()).count()
    }

    #[test]
    fn a_hundred_taps_fit_the_default_budget_and_250_fit_512_mib() {
        assert!(taps(256) >= 100, "{}", taps(256));
        assert!(taps(512) >= 250, "{}", taps(512));
    }

    #[test]
    fn the_first_tap_gets_the_largest_ring_and_a_full_budget_refuses() {
        let mut budget = RingBudget::of(256 << 20);
        assert_eq!(budget.grant(), Some(LARGEST_RING));
        while budget.grant().is_some() {}
        budget.release(SMALLEST_RING);
        assert_eq!(budget.grant(), Some(SMALLEST_RING));
        assert_eq!(budget.grant(), None);
    }
}
