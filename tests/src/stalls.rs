//! What a machine that is busy with something else takes from whoever has to keep to a time.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A thread that only wakes up again and again, and notes by how much it was late. Whoever bounds how soon something has to
/// happen may add that: on a machine that has time it is nothing.
#[derive(Debug)]
pub struct Stalls {
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Seen {
    last: Instant,
    late: Duration,
    over: bool,
}

/// How often it wakes up.
const STEP: Duration = Duration::from_millis(5);
/// Being late by less is how any machine is.
const USUAL: Duration = Duration::from_millis(20);

impl Seen {
    /// It wakes up now.
    fn wake(&mut self) {
        let now = Instant::now();
        let late = now.duration_since(self.last).saturating_sub(STEP);
        self.last = now;
        if late > USUAL {
            self.late += late;
        }
    }
}

impl Stalls {
    /// Begins to look.
    pub fn watch() -> Self {
        let seen = Arc::new(Mutex::new(Seen { last: Instant::now(), late: Duration::ZERO, over: false }));
        let own = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            loop {
                std::thread::sleep(STEP);
                let mut seen = own.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.over {
                    return;
                }
                seen.wake();
            }
        });
        Self { seen, thread: Some(thread) }
    }

    /// By how much it was late so far, all together, and is now.
    pub fn so_far(&self) -> Duration {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Perhaps the thread has not had its turn again yet.
        seen.wake();
        seen.late
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        if let Some(thread) = self.thread.take() {
            // It cannot have panicked.
            let _ = thread.join();
        }
    }
}
