//! The links that are known, and since when.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{Link, LinkEvent};

/// Links by index.
#[derive(Debug, Default)]
pub(super) struct Table {
    links: Mutex<HashMap<u32, Known>>,
    changes: AtomicU64,
}

/// A link, and since when it has been known.
type Known = (Link, Instant);

impl Table {
    /// Links that were there when the kernel was first asked: no news.
    pub(super) fn begin(&self, links: Vec<Link>) {
        let now = Instant::now();
        self.lock().extend(links.into_iter().map(|link| (link.index, (link, now))));
    }

    /// What the kernel told.
    pub(super) fn apply(&self, event: &LinkEvent) {
        match event {
            LinkEvent::Changed(link) => {
                let mut links = self.lock();
                // A pair that now leads elsewhere is as good as new.
                let since = match links.get(&link.index) {
                    Some((known, since)) if known.peer == link.peer && known.kind == link.kind => *since,
                    _ => Instant::now(),
                };
                links.insert(link.index, (link.clone(), since));
            }
            LinkEvent::Removed { index } => drop(self.lock().remove(index)),
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// What must have happened, unheard, if these are all the links there are.
    pub(super) fn missed(&self, now: Vec<Link>) -> Vec<LinkEvent> {
        let known = self.lock();
        let there: HashSet<u32> = now.iter().map(|link| link.index).collect();
        let gone = known.keys().filter(|index| !there.contains(index));
        let mut missed: Vec<LinkEvent> = gone.map(|&index| LinkEvent::Removed { index }).collect();
        let changed =
            now.into_iter().filter(|link| known.get(&link.index).is_none_or(|(one, _)| one != link));
        missed.extend(changed.map(LinkEvent::Changed));
        missed
    }

    /// The links that `wanted` says.
    pub(super) fn select(&self, wanted: impl Fn(&Link) -> bool) -> Vec<Link> {
        self.lock().values().map(|(link, _)| link).filter(|link| wanted(link)).cloned().collect()
    }

    /// One that `wanted` says.
    pub(super) fn find(&self, wanted: impl Fn(&Link) -> bool) -> Option<Link> {
        self.lock().values().map(|(link, _)| link).find(|link| wanted(link)).cloned()
    }

    /// What has become of an index.
    pub(super) fn now(&self, index: u32) -> LinkEvent {
        match self.lock().get(&index) {
            Some((link, _)) => LinkEvent::Changed(link.clone()),
            None => LinkEvent::Removed { index },
        }
    }

    /// Since when exactly that link has been known.
    pub(super) fn since(&self, link: &Link) -> Option<Instant> {
        self.lock().get(&link.index).filter(|(known, _)| known == link).map(|(_, since)| *since)
    }

    /// Another number after each change.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Known>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves it whole.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_the_link_that_was_heard_of_last_or_none() {
        let table = Table::default();
        assert_eq!(table.now(3), LinkEvent::Removed { index: 3 });
        let named = |name: &str| {
            let (name, kind) = (name.to_owned(), "veth".to_owned());
            LinkEvent::Changed(Link { index: 3, name, kind, peer: None, address: Vec::new() })
        };
        for event in [named("one"), named("other"), LinkEvent::Removed { index: 3 }] {
            table.apply(&event);
            assert_eq!(table.now(3), event);
        }
    }
}
