//! The PacketCaptures of the whole cluster: as many of each namespace as there is room for. Every agent keeps all of them,
//! and many people may make some.

use capture_api::SpecRoom;
use kube::{Resource, runtime::watcher::Event};

use super::{
    collection::Collection,
    objects::{KnownCapture, Name, WatchedCapture},
};

/// All PacketCaptures.
#[derive(Debug, Default)]
pub(super) struct Captures {
    known: Collection<KnownCapture>,
    room: SpecRoom,
}

impl Captures {
    /// Takes news over. True if anything is otherwise now.
    pub(super) fn take(&mut self, news: Event<WatchedCapture>) -> bool {
        let complete = matches!(news, Event::InitDone);
        let news = match news {
            Event::Init => Event::Init,
            Event::InitApply(capture) => Event::InitApply(self.fitted(capture)),
            Event::InitDone => Event::InitDone,
            Event::Apply(capture) => Event::Apply(self.fitted(capture)),
            Event::Delete(capture) => {
                let name = Name::of(capture.meta());
                self.leave(&name);
                Event::Delete((name, capture.into()))
            }
        };
        let changed = self.known.take(news, |(name, _)| name.clone(), |(_, capture)| capture);
        if complete {
            // Those that the list did not name have left.
            self.room = SpecRoom::default();
            for (name, capture) in self.known.iter() {
                if let Ok(spec) = &capture.spec {
                    // There was room for it before.
                    let _ = self.room.take(&name.namespace, spec.len());
                }
            }
        }
        changed
    }

    /// The capture in its own place, or where there is room, with why not instead of its spec.
    fn fitted(&mut self, capture: WatchedCapture) -> (Name, KnownCapture) {
        let name = Name::of(capture.meta());
        let mut capture = KnownCapture::from(capture);
        self.leave(&name);
        if let Ok(spec) = &capture.spec
            && let Err(refusal) = self.room.take(&name.namespace, spec.len())
        {
            capture.spec = Err(refusal);
        }
        (name, capture)
    }

    fn leave(&mut self, name: &Name) {
        if let Some(KnownCapture { spec: Ok(spec), .. }) = self.known.get(name) {
            self.room.give_back(&name.namespace, spec.len());
        }
    }

    /// Whether all of them have been named once.
    pub(super) fn listed(&self) -> bool {
        self.known.listed()
    }

    /// Whether that very object is known.
    pub(super) fn knows(&self, name: &Name, uid: &str) -> bool {
        self.known.get(name).is_some_and(|known| known.uid == uid)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &KnownCapture)> {
        self.known.iter()
    }
}

#[cfg(test)]
mod tests {
    use capture_api::MAX_SPEC;
    use serde_json::json;

    use super::*;

    fn capture(name: &str, bytes: usize) -> WatchedCapture {
        serde_json::from_value(json!({
            "metadata": {"namespace": "team-a", "name": name, "uid": name, "annotations": {"a": "x".repeat(bytes)}},
            "spec": {"podNames": ["x".repeat(bytes)]}, "status": {"packets": 7},
        }))
        .unwrap()
    }

    fn kept(captures: &Captures) -> usize {
        captures.iter().filter(|(_, capture)| capture.spec.is_ok()).count()
    }

    #[test]
    fn of_what_one_namespace_asks_for_little_is_kept() {
        let mut captures = Captures::default();
        captures.take(Event::Apply(capture("huge", MAX_SPEC)));
        let (_, huge) = captures.iter().next().unwrap();
        assert!(huge.spec.as_ref().unwrap_err().message.contains("fewer pods"));
        for number in 0..100 {
            captures.take(Event::Apply(capture(&format!("c{number:03}"), 64 << 10)));
        }
        assert_eq!((captures.iter().count(), kept(&captures)), (101, 15));
        // What is there may change, and what goes makes room.
        captures.take(Event::Apply(capture("c000", 65 << 10)));
        assert_eq!(kept(&captures), 15);
        captures.take(Event::Delete(capture("c001", 0)));
        captures.take(Event::Apply(capture("c099", 64 << 10)));
        assert_eq!(kept(&captures), 15);
    }

    #[test]
    fn what_a_list_does_not_name_makes_room() {
        let mut captures = Captures::default();
        for number in 0..16 {
            captures.take(Event::Apply(capture(&format!("old{number}"), 64 << 10)));
        }
        for news in [Event::Init, Event::InitDone] {
            captures.take(news);
        }
        for number in 0..15 {
            captures.take(Event::Apply(capture(&format!("new{number}"), 64 << 10)));
        }
        assert_eq!((captures.iter().count(), kept(&captures)), (15, 15));
    }
}
