//! One kind's objects as a watch tells them: complete lists and single changes.

use std::collections::{BTreeMap, BTreeSet};

use kube::runtime::watcher::Event;

use super::objects::Name;

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Collection<T> {
    items: BTreeMap<Name, T>,
    /// Those that the list under way has named so far.
    naming: Option<BTreeSet<Name>>,
    listed: bool,
}

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), naming: None, listed: false }
    }
}

impl<T: PartialEq> Collection<T> {
    /// Takes news over. True if anything is otherwise now: a new version may differ in nothing that is kept.
    pub(super) fn take<K>(
        &mut self,
        news: Event<K>,
        name: impl Fn(&K) -> Name,
        keep: impl Fn(K) -> T,
    ) -> bool {
        match news {
            Event::Init => {
                self.naming = Some(BTreeSet::new());
                false
            }
            Event::InitApply(object) => {
                let name = name(&object);
                if let Some(naming) = &mut self.naming {
                    naming.insert(name.clone());
                }
                self.put(name, keep(object))
            }
            Event::InitDone => {
                let before = self.items.len();
                if let Some(named) = self.naming.take() {
                    self.items.retain(|name, _| named.contains(name));
                }
                let first = !std::mem::replace(&mut self.listed, true);
                first || self.items.len() != before
            }
            Event::Apply(object) => self.put(name(&object), keep(object)),
            Event::Delete(object) => self.items.remove(&name(&object)).is_some(),
        }
    }

    fn put(&mut self, name: Name, item: T) -> bool {
        let differs = self.items.get(&name) != Some(&item);
        if differs {
            self.items.insert(name, item);
        }
        differs
    }

    /// Whether all of them have been named once.
    pub(super) fn listed(&self) -> bool {
        self.listed
    }

    pub(super) fn get(&self, name: &Name) -> Option<&T> {
        self.items.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &T)> {
        self.items.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.items.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(all: &mut Collection<u32>, news: Event<(&str, u32)>) -> bool {
        all.take(news, |(name, _)| Name { namespace: "n".into(), name: (*name).into() }, |(_, item)| item)
    }

    fn items(all: &Collection<u32>) -> Vec<(&str, u32)> {
        all.iter().map(|(name, item)| (name.name.as_str(), *item)).collect()
    }

    #[test]
    fn a_list_is_complete_when_it_is_done() {
        let mut all = Collection::default();
        assert!(!take(&mut all, Event::Init));
        assert!(take(&mut all, Event::InitApply(("a", 1))));
        assert!(!all.listed());
        assert!(take(&mut all, Event::InitDone));
        assert!(all.listed());
        assert!(!take(&mut all, Event::Apply(("a", 1))));
        assert!(take(&mut all, Event::Apply(("a", 2))));
        assert!(take(&mut all, Event::Apply(("b", 3))));
        assert!(take(&mut all, Event::Delete(("a", 2))));
        assert!(!take(&mut all, Event::Delete(("a", 2))));
        assert_eq!(items(&all), [("b", 3)]);
    }

    #[test]
    fn what_a_later_list_does_not_name_is_gone_only_when_it_is_done() {
        let mut all = Collection::default();
        for news in [Event::Init, Event::InitApply(("a", 1)), Event::InitApply(("b", 2)), Event::InitDone] {
            take(&mut all, news);
        }
        // Given up halfway, begun again.
        take(&mut all, Event::Init);
        take(&mut all, Event::InitApply(("a", 1)));
        assert_eq!(items(&all), [("a", 1), ("b", 2)]);
        take(&mut all, Event::Init);
        take(&mut all, Event::InitApply(("b", 2)));
        assert!(take(&mut all, Event::InitDone));
        assert_eq!(items(&all), [("b", 2)]);
        take(&mut all, Event::Init);
        take(&mut all, Event::InitApply(("b", 2)));
        assert!(!take(&mut all, Event::InitDone));
    }
}
