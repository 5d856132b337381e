//! The most that is written per second: a gateway must not be what an API server suffers from.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A bucket that holds a second's worth of writes.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: f64,
    /// Writes that may be made now, and when they were counted.
    left: Mutex<(f64, Instant)>,
}

impl Budget {
    pub(crate) fn new(per_second: NonZeroU32, now: Instant) -> Self {
        let per_second = f64::from(per_second.get());
        Self { per_second, left: Mutex::new((per_second, now)) }
    }

    /// Takes one write. False when there is none left for now.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let earned = now.saturating_duration_since(left.1).as_secs_f64() * self.per_second;
        *left = ((left.0 + earned).min(self.per_second), now.max(left.1));
        let enough = left.0 >= 1.0;
        if enough {
            left.0 -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_gives_as_many_writes_as_it_may_and_not_more() {
        let start = Instant::now();
        let budget = Budget::new(NonZeroU32::new(5).unwrap(), start);
        let taken = |at: Instant| (0..100).filter(|_| budget.take(at)).count();
        assert_eq!(taken(start), 5);
        assert_eq!(taken(start + Duration::from_millis(400)), 2);
        // A quiet hour saves no more than a second's worth.
        assert_eq!(taken(start + Duration::from_secs(3600)), 5);
    }
}
