//! One write to the API server: within its time, counted, and its outcome in one word.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio::time;
use tracing::{debug, warn};

use crate::metrics::Metrics;

/// The field manager of everything that the gateway writes.
pub(crate) const MANAGER: &str = "podtap-gateway";
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    /// It has changed since it was seen: the watch will tell how.
    Conflict,
    /// It is not there any more.
    Gone,
    /// Try again later.
    Failed,
}

/// Writes, and counts what is written.
#[derive(Clone)]
pub(crate) struct Writer {
    pub(crate) metrics: Metrics,
}

impl Writer {
    /// Makes a write that must be over at `until`, after which another gateway may write.
    pub(crate) async fn write<W>(&self, what: &'static str, until: Instant, write: W) -> Outcome
    where
        W: Future<Output = Result<(), kube::Error>>,
    {
        let deadline = until.min(Instant::now() + PATIENCE);
        let (outcome, error) = match time::timeout_at(deadline.into(), write).await {
            Ok(Ok(())) => (Outcome::Done, "none"),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => (Outcome::Conflict, "conflict"),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => (Outcome::Gone, "gone"),
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
                warn!(what, error = %status.message, "the gateway lacks a right; its ClusterRole says which it needs");
                (Outcome::Failed, "forbidden")
            }
            Ok(Err(error)) => {
                debug!(what, %error, "a write failed");
                (Outcome::Failed, "failed")
            }
            Err(_) => (Outcome::Failed, "timeout"),
        };
        self.metrics.written(what, if outcome == Outcome::Done { None } else { Some(error) });
        outcome
    }
}
