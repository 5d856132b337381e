//! How long something took, each time: what metrics tell of what holds packets up.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;

/// Upper ends of the classes, in seconds.
const CLASSES: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Times that something took. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Delays(Histogram);

impl Default for Delays {
    fn default() -> Self {
        Self(Histogram::new(CLASSES))
    }
}

impl Delays {
    /// Once more, and so long.
    pub fn add(&self, took: Duration) {
        self.0.observe(took.as_secs_f64());
    }

    /// All of them by class.
    pub(crate) const fn histogram(&self) -> &Histogram {
        &self.0
    }
}
