//! What is new, different or gone between two states of what is wanted.

use std::collections::BTreeMap;

use crate::session::wanted::{RequestEvent, RunKey, Wanted};

/// What the session engine was told so far.
#[derive(Debug, Default)]
pub struct Changes {
    told: BTreeMap<RunKey, Told>,
}

#[derive(Debug)]
struct Told {
    /// As the engine was told.
    last: Wanted,
    /// The last one that was not refused: what stays in force when a change is.
    good: Option<Wanted>,
}

impl Changes {
    /// Whether the engine was told of that run, and not that it is gone.
    #[must_use]
    pub fn told(&self, key: &RunKey) -> bool {
        self.told.contains_key(key)
    }

    /// The events that lead from what was told to `wanted`, those that are gone first. A change that cannot be taken
    /// over leaves a run's earlier request in force, and the run says so in a note.
    pub fn update(&mut self, wanted: BTreeMap<RunKey, Wanted>) -> Vec<RequestEvent> {
        let mut events = Vec::new();
        self.told.retain(|key, _| {
            let stays = wanted.contains_key(key);
            if !stays {
                events.push(RequestEvent::Gone(key.clone()));
            }
            stays
        });
        for (key, wanted) in wanted {
            let good = match (&wanted.settings, self.told.get_mut(&key)) {
                (Ok(_), _) => Some(wanted.clone()),
                (Err(_), told) => told.and_then(|told| told.good.take()),
            };
            let tell = match (&wanted.settings, &good) {
                (Err(refusal), Some(good)) => {
                    let mut kept = Wanted { forbidden: wanted.forbidden, ..good.clone() };
                    if kept.forbidden.is_none() {
                        kept.notes.push(format!("the last change is not in force: {refusal}"));
                    }
                    kept
                }
                _ => wanted,
            };
            let news = self.told.get(&key).is_none_or(|told| told.last != tell);
            if news {
                events.push(RequestEvent::Wanted(Box::new(tell.clone())));
            }
            self.told.insert(key, Told { last: tell, good });
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use capture_api::{Caps, Defaults, Refusal, RequestKind, from_annotations, keys};
    use jiff::Timestamp;

    use super::*;
    use crate::pods::Place;
    use crate::session::wanted::{Allowance, PodRef, RequestId, RequestRef};

    fn wanted(pod: &str, filter: Result<&str, Refusal>) -> Wanted {
        let settings = filter.map(|filter| {
            let annotations = BTreeMap::from([(keys::FILTER.to_owned(), filter.to_owned())]);
            from_annotations(&annotations, Timestamp::UNIX_EPOCH, &Defaults::default(), &Caps::default())
                .unwrap()
                .0
        });
        Wanted {
            key: RunKey { namespace: "n".into(), request: RequestId::Label, pod_uid: pod.into() },
            pod: PodRef {
                namespace: "n".into(),
                namespace_uid: String::new(),
                name: pod.into(),
                uid: pod.into(),
                labels: BTreeMap::new(),
                addresses: Vec::new(),
                place: Some(Place::Interface("veth0".into())),
            },
            request: RequestRef {
                kind: RequestKind::Label,
                name: None,
                uid: pod.into(),
                accepted: Timestamp::UNIX_EPOCH,
            },
            settings,
            notes: Vec::new(),
            forbidden: None,
            allowance: Allowance { at_once: 4, per_hour: None },
        }
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
    fn a_refused_change_leaves_the_earlier_request_in_force_and_says_so() {
        let mut changes = Changes::default();
        let good = wanted("a", Ok("tcp"));
        changes.update(state(&[&good]));
        let bad = wanted("a", Err(Refusal::new("InvalidValue", "no such thing.")));
        let mut kept = good.clone();
        kept.notes.push("the last change is not in force: no such thing.".into());
        assert_eq!(changes.update(state(&[&bad])), [told(&kept)]);
        assert_eq!(changes.update(state(&[&bad])), []);
        let worse = wanted("a", Err(Refusal::new("InvalidValue", "nor this.")));
        let mut kept = good.clone();
        kept.notes.push("the last change is not in force: nor this.".into());
        assert_eq!(changes.update(state(&[&worse])), [told(&kept)]);
        let mended = wanted("a", Ok("udp"));
        assert_eq!(changes.update(state(&[&mended])), [told(&mended)]);
    }

    #[test]
    fn what_is_forbidden_keeps_its_settings_and_says_so_once() {
        let mut changes = Changes::default();
        let good = wanted("a", Ok("tcp"));
        changes.update(state(&[&good]));
        let no = Refusal::new("Suspended", "not now.");
        let mut forbidden = wanted("a", Err(no.clone()));
        forbidden.forbidden = Some(no.clone());
        let kept = Wanted { forbidden: Some(no), ..good.clone() };
        assert_eq!(changes.update(state(&[&forbidden])), [told(&kept)]);
        assert_eq!(changes.update(state(&[&forbidden])), []);
        assert_eq!(changes.update(state(&[&good])), [told(&good)]);
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
