//! How often something may be done.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

/// At most so many times in any span of that length.
#[derive(Debug)]
pub(super) struct Pace {
    most: usize,
    span: Duration,
    lately: VecDeque<Instant>,
}

impl Pace {
    pub(super) fn new(most: usize, span: Duration) -> Self {
        Self { most, span, lately: VecDeque::with_capacity(most) }
    }

    /// From when on it may be done once more.
    pub(super) fn free_at(&self, now: Instant) -> Instant {
        match self.lately.front() {
            Some(first) if self.lately.len() >= self.most => now.max(*first + self.span),
            _ => now,
        }
    }

    /// It is done.
    pub(super) fn count(&mut self, now: Instant) {
        if self.lately.len() >= self.most {
            self.lately.pop_front();
        }
        self.lately.push_back(now);
    }
}

/// Who has had a turn, and who has waited longest: one who wants a lot keeps nobody waiting.
#[derive(Debug, Default)]
pub(super) struct Turns {
    had: HashMap<String, u64>,
    turns: u64,
}

/// Of more than so many it is forgotten who had a turn.
const MOST_TURNS: usize = 4096;

impl Turns {
    /// Smaller for one who has waited longer.
    pub(super) fn last(&self, whose: &str) -> u64 {
        self.had.get(whose).copied().unwrap_or_default()
    }

    /// It has its turn.
    pub(super) fn take(&mut self, whose: &str) {
        self.turns += 1;
        if self.had.len() >= MOST_TURNS {
            self.had.clear();
        }
        self.had.insert(whose.to_owned(), self.turns);
    }
}

/// Longer and longer pauses while something fails.
#[derive(Debug)]
pub(super) struct Pauses {
    first: Duration,
    longest: Duration,
    failures: u32,
    seed: u64,
}

impl Pauses {
    /// The first pause, the longest one, and what makes this one's pauses differ from others'.
    pub(super) fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        Self { first, longest, failures: 0, seed }
    }

    /// It failed: how long to wait.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = self.first.saturating_mul(1 << self.failures.min(16)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Three quarters to five quarters of it: a thousand agents do not come back in the same moment.
        pause * 3 / 4 + pause.mul_f64((self.seed >> 40) as f64 / (1 << 24) as f64 / 2.0)
    }

    /// Whether it did not fail lately.
    pub(super) fn idle(&self) -> bool {
        self.failures == 0
    }

    /// A part of `whole` that is always the same for the same seed, until something fails.
    pub(super) fn share(&self, whole: Duration) -> Duration {
        whole.mul_f64((self.seed >> 40) as f64 / (1 << 24) as f64)
    }

    /// It succeeded.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A number that depends on the text and on nothing else.
pub(super) fn seed(text: &str) -> u64 {
    // FNV-1a, and a last stir: texts that differ in their last letter only differ in all bits then. No secrecy.
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_span_has_more_than_the_most() {
        let start = Instant::now();
        let mut pace = Pace::new(5, Duration::from_secs(1));
        let (mut now, mut done) = (start, Vec::new());
        for _ in 0..50 {
            now = pace.free_at(now);
            pace.count(now);
            done.push(now);
            now += Duration::from_millis(7);
        }
        assert!(done.windows(6).all(|six| six[5] - six[0] >= Duration::from_secs(1)));
        assert!(done[49] - start < Duration::from_secs(10));
        assert_eq!(done[4] - start, Duration::from_millis(28));
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_differ_from_others() {
        let mut pauses = Pauses::new(Duration::from_secs(1), Duration::from_secs(15), seed("node1"));
        let all: Vec<f64> = (0..8).map(|_| pauses.failed().as_secs_f64()).collect();
        for (pause, around) in all.iter().zip([1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0]) {
            assert!((around * 0.75..=around * 1.25).contains(pause), "{all:?}");
        }
        pauses.reset();
        assert!(pauses.failed() < Duration::from_millis(1251));
        let mut other = Pauses::new(Duration::from_secs(1), Duration::from_secs(15), seed("node2"));
        assert!((other.failed().as_secs_f64() - all[0]).abs() > 1e-6);
    }
}
