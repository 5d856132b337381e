//! Whether the gateway lives and whether it knows the cluster.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The loop turns several times a second; when it has not for this long, it hangs.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// Shared between the loop and whoever is asked.
#[derive(Debug)]
pub(crate) struct Health {
    start: Instant,
    /// Milliseconds after `start` of the loop's last turn.
    turned: AtomicU64,
    ready: AtomicBool,
}

impl Health {
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, turned: AtomicU64::new(0), ready: AtomicBool::new(false) }
    }

    /// The loop has made a turn; `ready` when all caches have been filled once.
    pub(crate) fn turn(&self, now: Instant, ready: bool) {
        let since = now.saturating_duration_since(self.start).as_millis();
        self.turned.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.ready.store(ready, Ordering::Relaxed);
    }

    /// Whether the loop turns.
    pub(crate) fn is_alive(&self, now: Instant) -> bool {
        let turned = self.start + Duration::from_millis(self.turned.load(Ordering::Relaxed));
        now.saturating_duration_since(turned) < HANGS_AFTER
    }

    /// Whether all caches have been filled.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_hangs_is_not_alive_and_readiness_is_what_it_says() {
        let start = Instant::now();
        let seconds = |seconds| start + Duration::from_secs(seconds);
        let health = Health::new(start);
        assert!(health.is_alive(seconds(29)) && !health.is_ready());
        health.turn(seconds(40), true);
        assert!(health.is_alive(seconds(69)) && health.is_ready());
        assert!(!health.is_alive(seconds(70)));
    }
}
