//! Counters that are counted where things happen, in whatever thread that is.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use capture_filter::FilterError;

use crate::pods::LinkEvent;

/// A number that only goes up.
#[derive(Debug, Default)]
struct Meter(AtomicU64);

impl Meter {
    /// Once more.
    fn count(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// How often so far.
    #[must_use]
    fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// All of them. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Meters {
    inner: Arc<All>,
}

#[derive(Debug, Default)]
struct All {
    links_changed: Meter,
    links_removed: Meter,
    filters_compiled: Meter,
    filters_refused: Meter,
    filters_failed: Meter,
    api: [ApiMeters; ApiObject::ALL.len()],
    watches: [WatchMeters; Watched::ALL.len()],
}

/// What was tried at the API server, and what of it failed.
#[derive(Debug, Default)]
struct ApiMeters {
    writes: Meter,
    errors: Meter,
}

/// How a watch of the API server went.
#[derive(Debug, Default)]
struct WatchMeters {
    lists: Meter,
    expired: Meter,
    other_errors: Meter,
}

/// What the agent watches at the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watched {
    /// The pods of its node.
    Pods,
    /// All PacketCaptures.
    Captures,
    /// All CapturePolicies.
    Policies,
    /// All namespaces.
    Namespaces,
}

impl Watched {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Pods, Self::Captures, Self::Policies, Self::Namespaces];

    /// The resource, as metrics and logs show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pods => "pods",
            Self::Captures => "packetcaptures",
            Self::Policies => "capturepolicies",
            Self::Namespaces => "namespaces",
        }
    }
}

/// What the agent writes at the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiObject {
    /// A run's record.
    PodCapture,
    /// An Event on a pod or a capture.
    Event,
    /// Anything else.
    Other,
}

impl ApiObject {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::PodCapture, Self::Event, Self::Other];

    /// As metrics show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodCapture => "PodCapture",
            Self::Event => "Event",
            Self::Other => "Other",
        }
    }
}

impl Meters {
    /// The kernel told news of a link.
    pub fn link(&self, event: &LinkEvent) {
        match event {
            LinkEvent::Changed(_) => self.inner.links_changed.count(),
            LinkEvent::Removed { .. } => self.inner.links_removed.count(),
        }
    }

    /// News of links so far, by kind.
    #[must_use]
    pub fn links(&self) -> [(&'static str, u64); 2] {
        let All { links_changed, links_removed, .. } = &*self.inner;
        [("Changed", links_changed.value()), ("Removed", links_removed.value())]
    }

    /// A filter was compiled, or found in the cache, or not.
    pub fn filter<T>(&self, result: &Result<T, FilterError>) {
        match result {
            Ok(_) => self.inner.filters_compiled.count(),
            Err(error) if error.is_refusal() => self.inner.filters_refused.count(),
            Err(_) => self.inner.filters_failed.count(),
        }
    }

    /// Filters so far, by result.
    #[must_use]
    pub fn filters(&self) -> [(&'static str, u64); 3] {
        let All { filters_compiled, filters_refused, filters_failed, .. } = &*self.inner;
        [
            ("Compiled", filters_compiled.value()),
            ("Refused", filters_refused.value()),
            ("Failed", filters_failed.value()),
        ]
    }

    /// All objects of a resource were named.
    pub fn api_list(&self, watched: Watched) {
        self.inner.watches[watched as usize].lists.count();
    }

    /// A watch failed; `expired` when the server no longer knows what came after the last news.
    pub fn api_watch_error(&self, watched: Watched, expired: bool) {
        let WatchMeters { expired: gone, other_errors, .. } = &self.inner.watches[watched as usize];
        if expired { gone } else { other_errors }.count();
    }

    /// Complete lists so far, by resource.
    #[must_use]
    pub fn api_lists(&self) -> [(&'static str, u64); Watched::ALL.len()] {
        Watched::ALL.map(|watched| (watched.name(), self.inner.watches[watched as usize].lists.value()))
    }

    /// Errors of watches so far, by resource, and by reason.
    #[must_use]
    pub fn api_watch_errors(&self) -> [(&'static str, [(&'static str, u64); 2]); Watched::ALL.len()] {
        Watched::ALL.map(|watched| {
            let WatchMeters { expired, other_errors, .. } = &self.inner.watches[watched as usize];
            (watched.name(), [("Expired", expired.value()), ("Other", other_errors.value())])
        })
    }

    /// A write to the API server has been answered, or not: whether it succeeded.
    pub fn api_write(&self, object: ApiObject, succeeded: bool) {
        let meters = &self.inner.api[object as usize];
        meters.writes.count();
        if !succeeded {
            meters.errors.count();
        }
    }

    /// Writes to the API server so far, and those of them that failed, by object.
    #[must_use]
    pub fn api(&self) -> [(&'static str, u64, u64); ApiObject::ALL.len()] {
        ApiObject::ALL.map(|object| {
            let ApiMeters { writes, errors } = &self.inner.api[object as usize];
            (object.name(), writes.value(), errors.value())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_apart() {
        let meters = Meters::default();
        let refusal = FilterError::Protochain;
        let failure = FilterError::Unavailable { reason: String::new() };
        for result in [Ok(()), Ok(()), Err(refusal), Err(failure)] {
            meters.clone().filter(&result);
        }
        assert_eq!(meters.filters(), [("Compiled", 2), ("Refused", 1), ("Failed", 1)]);
        meters.api_write(ApiObject::Event, true);
        meters.api_write(ApiObject::Event, false);
        assert_eq!(meters.api(), [("PodCapture", 0, 0), ("Event", 2, 1), ("Other", 0, 0)]);
    }
}
