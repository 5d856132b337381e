//! What is new, different or gone between two states of what is wanted.

use std::collections::BTreeMap;

use crate::session::wanted::{RequestEvent, RunKey, Wanted};

/// What the session engine was told so far.
#[derive(Debug, Default)]
pub struct Changes {
    told: BTreeMap<RunKey, Wanted>,
}

impl Changes {
    /// Whether the engine was told of that run, and not that it is gone.
    #[must_use]
    pub fn told(&self, key: &RunKey) -> bool {
        self.told.contains_key(key)
    }

    /// The events that lead from what was told to `wanted`, those that are gone first.
    pub fn update(&mut self, wanted: BTreeMap<RunKey, Wanted>) -> Vec<RequestEvent> {
        let gone = self.told.keys().filter(|key| !wanted.contains_key(key));
        let mut events: Vec<RequestEvent> = gone.map(|key| RequestEvent::Gone(key.clone())).collect();
        let news = wanted.iter().filter(|(key, wanted)| self.told.get(key) != Some(wanted));
        events.extend(news.map(|(_, wanted)| RequestEvent::Wanted(Box::new(wanted.clone()))));
        self.told = wanted;
        events
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use capture_api::{Caps, Defaults, Refusal, from_annotations, keys};
    use jiff::Timestamp;

    use super::*;
    use crate::requests::test_wanted;

    fn wanted(pod: &str, filter: Result<&str, Refusal>) -> Wanted {
        let settings = filter.map(|filter| {
            let annotations = BTreeMap::from([(keys::FILTER.to_owned(), filter.to_owned())]);
            from_annotations(&annotations, Timestamp::UNIX_EPOCH, &Defaults::default(), &Caps::default())
                .unwrap()
                .0
        });
        test_wanted::wanted(pod, None, Timestamp::UNIX_EPOCH, settings)
    }

    fn state(all: &[&Wanted]) -> BTreeMap<RunKey, Wanted> {
        all.iter().map(|wanted| (wanted.key.clone(), (*wanted).clone())).collect()
    }

    fn told(wanted: &Wanted) -> RequestEvent {
        RequestEvent::Wanted(Box::new(wanted.clone()))
    }

    #[test]
    fn only_what_differs_is_told_and_the_gone_come_first() {
        let mut changes = Changes::default();
        let (a, b) = (wanted("a", Ok("tcp")), wanted("b", Ok("tcp")));
        assert_eq!(changes.update(state(&[&a, &b])), [told(&a), told(&b)]);
        assert_eq!(changes.update(state(&[&a, &b])), []);
        let edited = wanted("a", Ok("udp"));
        assert_eq!(changes.update(state(&[&edited])), [RequestEvent::Gone(b.key.clone()), told(&edited)]);
        assert_eq!(changes.update(state(&[])), [RequestEvent::Gone(a.key.clone())]);
    }

    #[test]
    fn a_change_of_caps_is_told_of_a_request_that_cannot_be_carried_out_too() {
        let mut changes = Changes::default();
        let bad = wanted("a", Err(Refusal::new("InvalidValue", "no such thing.")));
        assert_eq!(changes.update(state(&[&bad])), [told(&bad)]);
        assert_eq!(changes.update(state(&[&bad])), []);
        let tighter = Wanted { caps: Caps { headers_only: true, ..Caps::default() }, ..bad };
        assert_eq!(changes.update(state(&[&tighter])), [told(&tighter)]);
    }

    #[test]
    fn a_new_request_that_is_bad_is_told_as_refused() {
        let mut changes = Changes::default();
        let bad = wanted("a", Err(Refusal::new("InvalidValue", "no.")));
        assert_eq!(changes.update(state(&[&bad])), [told(&bad)]);
        let good = wanted("a", Ok("tcp"));
        assert_eq!(changes.update(state(&[&good])), [told(&good)]);
    }
}
