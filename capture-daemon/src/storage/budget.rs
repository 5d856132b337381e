//! The node's write cap, shared fairly.
//!
//! While the node is under the cap nobody is held back. Over it, a stream still gets its share (the cap divided by
//! the streams that write), and those that ask for more are refused; what the small ones took beyond the cap the
//! large ones pay back, so over a second the cap holds.
//!
//! A block may be larger than a share, or than the whole cap for a while. It passes all the same when its stream has
//! something of its share left, and is paid for afterwards: large packets come seldom under a low cap, but they come.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// The most that a stream owes, in bytes: the largest block.
const LARGEST_BLOCK: u64 = 128 << 10;
/// Shares are reckoned over this time; also how much of the cap may come at once.
const WINDOW: Duration = Duration::from_millis(100);

/// One per agent. Only the consumer thread writes to it; it is atomic so that streams can share it.
#[derive(Debug)]
pub(super) struct WriteBudget {
    start: Instant,
    bytes_per_second: u64,
    /// What may still be written, in bytes; negative when the shares of small streams went beyond the cap.
    tokens: AtomicI64,
    /// When the window began, in ns after `start`.
    began: AtomicU64,
    /// The window's number.
    window: AtomicU64,
    /// Streams that have written in this window, and in the one before.
    active: AtomicU64,
    active_before: AtomicU64,
}

/// One stream's part.
#[derive(Debug, Default)]
pub(super) struct Share {
    window: u64,
    /// Bytes taken in that window, with what was owed from those before.
    used: u64,
}

impl WriteBudget {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        let budget = Self {
            start: Instant::now(),
            bytes_per_second,
            tokens: 0.into(),
            began: 0.into(),
            window: 1.into(),
            active: 0.into(),
            active_before: 0.into(),
        };
        budget.tokens.store(budget.per_window() as i64, Relaxed);
        budget
    }

    const fn per_window(&self) -> u64 {
        self.bytes_per_second / (1000 / WINDOW.as_millis() as u64)
    }

    /// Begins a new window when the last one is over.
    pub(super) fn roll(&self, now: Instant) {
        let now = now.saturating_duration_since(self.start).as_nanos() as u64;
        let elapsed = now.saturating_sub(self.began.load(Relaxed));
        if elapsed < WINDOW.as_nanos() as u64 {
            return;
        }
        let earned = (u128::from(self.bytes_per_second) * u128::from(elapsed) / 1_000_000_000) as i64;
        let tokens = self.tokens.load(Relaxed).saturating_add(earned);
        // Nothing is saved up beyond a window, nor owed beyond a second, or the largest block.
        let most_owed = self.bytes_per_second.max(LARGEST_BLOCK) as i64;
        self.tokens.store(tokens.min(self.per_window() as i64).max(-most_owed), Relaxed);
        self.began.store(now, Relaxed);
        self.active_before.store(self.active.load(Relaxed), Relaxed);
        self.active.store(0, Relaxed);
        self.window.store(self.window.load(Relaxed) + 1, Relaxed);
    }

    /// What each stream may have of a window, at least.
    fn part(&self) -> u64 {
        let streams = self.active.load(Relaxed).max(self.active_before.load(Relaxed)).max(1);
        (self.per_window() / streams).max(1)
    }

    /// Whether a stream may write `bytes` more; if so they are counted.
    pub(super) fn allow(&self, share: &mut Share, bytes: usize) -> bool {
        let window = self.window.load(Relaxed);
        if share.window != window {
            let paid = self.part().saturating_mul(window - share.window);
            *share = Share { window, used: share.used.saturating_sub(paid).min(LARGEST_BLOCK) };
            self.active.store(self.active.load(Relaxed) + 1, Relaxed);
        }
        let tokens = self.tokens.load(Relaxed);
        if tokens < bytes as i64 && share.used >= self.part() {
            return false;
        }
        share.used += bytes as u64;
        self.tokens.store(tokens - bytes as i64, Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs streams that each want `wanted[i]` bytes per ms for `ms`, and returns what each got.
    fn run(cap: u64, wanted: &[usize], ms: u64) -> Vec<u64> {
        let budget = WriteBudget::new(cap);
        let mut shares: Vec<Share> = wanted.iter().map(|_| Share::default()).collect();
        let mut got = vec![0; wanted.len()];
        for time in 0..ms {
            budget.roll(budget.start + Duration::from_millis(time));
            for (stream, &wanted) in wanted.iter().enumerate() {
                for _ in 0..wanted / 100 {
                    if budget.allow(&mut shares[stream], 100) {
                        got[stream] += 100;
                    }
                }
            }
        }
        got
    }

    #[test]
    fn under_the_cap_nobody_is_held_back() {
        assert_eq!(run(2_000_000, &[1000, 500], 5000), [5_000_000, 2_500_000]);
    }

    #[test]
    fn only_who_is_over_his_share_is_refused_and_the_cap_holds() {
        let got = run(1_000_000, &[100_000, 100, 200], 10_000);
        assert_eq!((got[1], got[2]), (1_000_000, 2_000_000));
        assert!((6_800_000..=7_300_000).contains(&got[0]), "{got:?}");
    }

    #[test]
    fn equals_get_the_same() {
        let got = run(1_000_000, &[10_000, 10_000, 10_000, 10_000], 10_000);
        let total: u64 = got.iter().sum();
        assert!((9_500_000..=10_500_000).contains(&total), "{got:?}");
        // Who comes first takes what is left over in a window; nobody gets less than a share.
        assert!(got.iter().all(|&bytes| bytes >= 2_200_000), "{got:?}");
    }

    #[test]
    fn packets_larger_than_a_share_come_seldom_but_come_and_the_cap_holds() {
        /// An offloaded segment, as a block.
        const LARGE: usize = 65_592;
        const CAP: u64 = 512 << 10;
        for small_streams in [0, 3] {
            let budget = WriteBudget::new(CAP);
            let mut shares: Vec<Share> = (0..=small_streams).map(|_| Share::default()).collect();
            let (mut large, mut small) = (0, vec![0u64; small_streams]);
            for time in 0..20_000 {
                budget.roll(budget.start + Duration::from_millis(time));
                let (first, others) = shares.split_first_mut().unwrap();
                for (share, got) in others.iter_mut().zip(&mut small) {
                    // Each of them could fill the cap.
                    for _ in 0..5 {
                        *got += u64::from(budget.allow(share, 100)) * 100;
                    }
                }
                large += u64::from(budget.allow(first, LARGE)) * LARGE as u64;
            }
            let total = large + small.iter().sum::<u64>();
            assert!((CAP * 18..=CAP * 21).contains(&total), "{small_streams}: {total}");
            let fair = CAP * 20 / (1 + small_streams as u64);
            assert!(large >= fair * 8 / 10, "{small_streams}: {large} of {fair}");
            assert!(small.iter().all(|&bytes| bytes >= fair * 8 / 10), "{small:?}");
        }
    }
}
