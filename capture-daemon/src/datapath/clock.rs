//! Keeps taps' UTC right: the kernel programs stamp packets with the boot clock plus an offset.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak, mpsc},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use super::{Control, DatapathError, control::Words};

/// How often the offset is refreshed: the clocks drift apart by what NTP corrects, at most 0.5 ms in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// A thread that refreshes the clock offset of every registered tap. Dropping it ends the thread.
#[derive(Debug)]
pub struct Clock {
    taps: Arc<Mutex<Vec<Weak<Words>>>>,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Clock {
    /// Starts the thread.
    pub fn start() -> Result<Self, DatapathError> {
        let taps = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = mpsc::channel();
        let refreshed = Arc::clone(&taps);
        let thread = thread::Builder::new()
            .name("clock".into())
            .spawn(move || {
                while stopped.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                    refresh(&refreshed);
                }
            })
            .map_err(|source| DatapathError::Syscall { call: "start the clock thread", source })?;
        Ok(Self { taps, stop: Some(stop), thread: Some(thread) })
    }

    /// Sets the tap's clock now and every second from now on, until its last handle is gone.
    pub fn register(&self, control: &Control) {
        control.set_clock_offset(utc_offset());
        let mut taps = self.taps.lock().unwrap_or_else(PoisonError::into_inner);
        taps.push(Arc::downgrade(control.words()));
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked, and there is nobody to tell.
            let _ = thread.join();
        }
    }
}

fn refresh(taps: &Mutex<Vec<Weak<Words>>>) {
    let offset = utc_offset();
    let mut taps = taps.lock().unwrap_or_else(PoisonError::into_inner);
    taps.retain(|words| {
        let Some(words) = words.upgrade() else { return false };
        Control::from_words(words).set_clock_offset(offset);
        true
    });
}

/// What to add to the boot clock to get UTC now, in ns; the best of a few tries, since one may be interrupted.
pub(super) fn utc_offset() -> i64 {
    const TRIES: usize = 5;
    let mut best = (i64::MAX, 0);
    for _ in 0..TRIES {
        let before = nanoseconds(ClockId::Boottime);
        let utc = nanoseconds(ClockId::Realtime);
        let after = nanoseconds(ClockId::Boottime);
        let width = after - before;
        if width < best.0 {
            best = (width, utc - before - width / 2);
        }
    }
    best.1
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn offset_makes_utc_of_the_boot_clock() {
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64;
        // The machine may be busy with something else between any two of these.
        let before = now();
        let utc = nanoseconds(ClockId::Boottime) + utc_offset();
        let after = now();
        // Half of the narrowest reading, and what the clock was corrected by meanwhile.
        const TOLERATED: i64 = 50_000_000;
        assert!((before - TOLERATED..=after + TOLERATED).contains(&utc), "{before} {utc} {after}");
    }
}
