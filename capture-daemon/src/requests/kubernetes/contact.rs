//! For how long the agent has been cut off from the API server.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::telemetry::Watched;

/// What the agent asks of the API server; one can fail without the others, when a permission is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Channel {
    /// A question each half minute: a watch may stay silent for minutes although nobody is there any more.
    Probe,
    Watch(Watched),
}

/// A watch that is tried again in vain tells so at least as often: connecting and waiting take no longer.
const SILENT_IS_WELL: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    last: Instant,
}

/// Which channels fail, and since when.
#[derive(Debug, Default)]
pub(super) struct Contact(BTreeMap<Channel, Failing>);

impl Contact {
    pub(super) fn good(&mut self, channel: Channel) {
        let failed = self.0.remove(&channel).is_some();
        if failed && channel == Channel::Probe {
            // It is back. Whatever else fails still will soon say so.
            self.0.clear();
        }
    }

    /// True if it was well before.
    pub(super) fn bad(&mut self, channel: Channel, now: Instant) -> bool {
        let known = self.0.get(&channel).filter(|known| now.duration_since(known.last) < SILENT_IS_WELL);
        let since = known.map(|known| known.since);
        self.0.insert(channel, Failing { since: since.unwrap_or(now), last: now });
        since.is_none()
    }

    /// For how long something has failed without a break; the longest, if more than one.
    pub(super) fn failing(&self, now: Instant) -> Option<Duration> {
        let lately = self.0.iter().filter(|(channel, failing)| {
            **channel == Channel::Probe || now.duration_since(failing.last) < SILENT_IS_WELL
        });
        lately.map(|(_, failing)| now.duration_since(failing.since)).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_failure_counts_until_it_is_over() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut contact = Contact::default();
        assert_eq!(contact.failing(start), None);
        assert!(contact.bad(Channel::Watch(Watched::Pods), at(0)));
        assert!(contact.bad(Channel::Probe, at(10)));
        assert!(!contact.bad(Channel::Watch(Watched::Pods), at(30)));
        assert_eq!(contact.failing(at(40)), Some(Duration::from_secs(40)));
        contact.good(Channel::Watch(Watched::Pods));
        assert_eq!(contact.failing(at(40)), Some(Duration::from_secs(30)));
        contact.good(Channel::Probe);
        assert_eq!(contact.failing(at(40)), None);
    }

    #[test]
    fn a_watch_that_fails_no_more_is_well_although_it_has_no_news() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut contact = Contact::default();
        contact.bad(Channel::Watch(Watched::Policies), at(0));
        contact.bad(Channel::Watch(Watched::Policies), at(50));
        assert_eq!(contact.failing(at(100)), Some(Duration::from_secs(100)));
        assert_eq!(contact.failing(at(111)), None);
        assert!(contact.bad(Channel::Watch(Watched::Policies), at(200)));
        assert_eq!(contact.failing(at(201)), Some(Duration::from_secs(1)));
        // A permission that was taken away does not come back with the server.
        contact.bad(Channel::Probe, at(202));
        contact.good(Channel::Probe);
        assert_eq!(contact.failing(at(203)), None);
        contact.good(Channel::Probe);
        contact.bad(Channel::Watch(Watched::Policies), at(204));
        contact.good(Channel::Probe);
        assert_eq!(contact.failing(at(205)), Some(Duration::from_secs(1)));
    }
}
