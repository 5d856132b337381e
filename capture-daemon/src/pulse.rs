//! Signs of life: a thread says now and then that it goes on, and whoever asks learns which one does not.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A thread's sign of life. Clones are the same one.
///
/// A thread that comes by regularly [beats](Self::beat) each time. One that waits for work as long as there is none
/// beats when it begins a piece of it and [rests](Self::rest) when that is done.
#[derive(Clone, Debug)]
pub struct Pulse {
    thread: Arc<str>,
    /// Milliseconds from [`epoch`] to the last beat, plus 1; 0 while resting.
    beaten: Arc<AtomicU64>,
}

impl Pulse {
    /// The pulse of a thread that has not begun.
    #[must_use]
    pub fn new(thread: impl Into<Arc<str>>) -> Self {
        // No beat is earlier.
        epoch();
        Self { thread: thread.into(), beaten: Arc::default() }
    }

    /// Whose pulse it is.
    #[must_use]
    pub fn thread(&self) -> &str {
        &self.thread
    }

    /// The thread goes on, and will beat again or rest before long.
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    /// As [`beat`](Self::beat), for who knows the time already.
    pub fn beat_at(&self, now: Instant) {
        let since = now.saturating_duration_since(epoch()).as_millis();
        self.beaten.store(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1, Relaxed);
    }

    /// The thread has nothing to do, and need not beat.
    pub fn rest(&self) {
        self.beaten.store(0, Relaxed);
    }

    /// How long ago the last beat was; nothing while the thread rests.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        let beaten = self.beaten.load(Relaxed).checked_sub(1)?;
        Some(epoch().elapsed().saturating_sub(Duration::from_millis(beaten)))
    }
}

/// What beats are counted from: some moment early in the process's life.
fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_beat_unless_the_thread_rests() {
        let pulse = Pulse::new("test");
        assert_eq!(pulse.silence(), None, "not begun");
        pulse.clone().beat_at(epoch());
        std::thread::sleep(Duration::from_millis(20));
        assert!(pulse.silence().unwrap() >= Duration::from_millis(20));
        let before = Instant::now();
        pulse.beat();
        // Beats are kept to the millisecond.
        let silence = pulse.silence().unwrap();
        assert!(silence <= before.elapsed() + Duration::from_millis(1), "not counted from the last beat");
        pulse.rest();
        assert_eq!(pulse.silence(), None);
    }
}
