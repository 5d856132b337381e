//! News of links, kept for somebody who may be late.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Link, LinkEvent};

/// Links of which news is kept, at most. Of more, only that there was news.
const MOST: usize = 4096;

/// What has happened to links since somebody last asked. However much that is and however long nobody asks, it takes no
/// more than a few megabytes. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct LinkNews {
    latest: Arc<Mutex<Latest>>,
}

/// What is known of the time since the last look.
#[derive(Debug, Default)]
struct Latest {
    links: HashMap<u32, OfLink>,
    more: bool,
}

/// Of one index.
#[derive(Debug, Default)]
struct OfLink {
    /// The link that had it at first is gone, or leads elsewhere.
    removed: bool,
    /// What has it now.
    now: Option<Link>,
}

/// What [`LinkNews`] kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// What happened to each link, in the end: if it was removed and its index given to another, both.
    pub events: Vec<LinkEvent>,
    /// There was more; of which links is not known.
    pub more: bool,
}

impl LinkNews {
    /// Something happened. True if it is the first since [`LinkNews::take`]: somebody should be told to look.
    pub fn add(&self, event: LinkEvent) -> bool {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let first = latest.links.is_empty() && !latest.more;
        let index = match &event {
            LinkEvent::Changed(link) => link.index,
            LinkEvent::Removed { index } => *index,
        };
        if latest.links.len() >= MOST && !latest.links.contains_key(&index) {
            latest.more = true;
            return first;
        }
        let of_link = latest.links.entry(index).or_default();
        match event {
            LinkEvent::Changed(link) => {
                // Who captures on the link that was there must hear that it went, even if it has come back.
                of_link.removed |= of_link.now.as_ref().is_some_and(|before| before.peer != link.peer);
                of_link.now = Some(link);
            }
            LinkEvent::Removed { .. } => *of_link = OfLink { removed: true, now: None },
        }
        first
    }

    /// All that was not taken yet.
    #[must_use]
    pub fn take(&self) -> Heard {
        let latest = std::mem::take(&mut *self.latest.lock().unwrap_or_else(PoisonError::into_inner));
        let events = latest.links.into_iter().flat_map(|(index, OfLink { removed, now })| {
            [removed.then_some(LinkEvent::Removed { index }), now.map(LinkEvent::Changed)]
        });
        Heard { events: events.flatten().collect(), more: latest.more }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::Peer;

    fn link(index: u32, peer: u32) -> Link {
        let peer = Some(Peer { netns: 0, index: peer });
        Link { index, name: format!("veth{index}"), kind: "veth".into(), peer, address: Vec::new() }
    }

    fn changed(index: u32, peer: u32) -> LinkEvent {
        LinkEvent::Changed(link(index, peer))
    }

    fn taken(events: impl IntoIterator<Item = LinkEvent>) -> Heard {
        let news = LinkNews::default();
        for (at, event) in events.into_iter().enumerate() {
            assert_eq!(news.add(event), at == 0, "only the first wakes");
        }
        let heard = news.take();
        assert_eq!(news.take(), Heard::default(), "taken once");
        assert!(news.add(changed(1, 1)), "the next wakes again");
        heard
    }

    #[test]
    fn of_many_changes_the_last_is_told() {
        let heard = taken([changed(3, 1), changed(3, 1)]);
        assert_eq!(heard, Heard { events: vec![changed(3, 1)], more: false });
    }

    #[test]
    fn that_a_link_went_is_not_forgotten_when_its_index_comes_back() {
        let removed = LinkEvent::Removed { index: 3 };
        for between in [vec![removed.clone()], vec![changed(3, 2)], vec![changed(3, 2), changed(3, 1)]] {
            let events = [changed(3, 1)].into_iter().chain(between.clone()).chain([changed(3, 1)]);
            let expected = Heard { events: vec![removed.clone(), changed(3, 1)], more: false };
            assert_eq!(taken(events), expected, "{between:?}");
        }
        assert_eq!(taken([changed(3, 1), removed.clone()]).events, [removed]);
    }

    #[test]
    fn beyond_the_bound_it_is_told_that_there_is_more() {
        let many = MOST as u32;
        let heard = taken((0..2 * many).map(|index| LinkEvent::Removed { index }).chain([changed(7, 1)]));
        assert!(heard.more);
        assert_eq!(heard.events.len(), MOST + 1, "what is new of the known ones is kept");
        assert!(heard.events.contains(&changed(7, 1)));
    }
}
