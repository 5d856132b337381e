//! Objects by key, as a watch tells them: one by one, or by a new listing that replaces what was known.

use std::collections::HashMap;
use std::hash::Hash;

/// Objects by key.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    /// With the number of the listing that named them last.
    items: HashMap<K, (V, u32)>,
    listing: u32,
    complete: bool,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { items: HashMap::new(), listing: 0, complete: false }
    }
}

impl<K: Hash + Eq + Clone, V> Cache<K, V> {
    /// A listing begins. Until it is complete, what was known stays.
    pub(crate) fn list(&mut self) {
        self.listing = self.listing.wrapping_add(1);
    }

    /// The listing is complete. Gives what it did not name, which is gone.
    pub(crate) fn listed(&mut self) -> Vec<(K, V)> {
        self.complete = true;
        let listing = self.listing;
        let gone: Vec<K> = self
            .items
            .iter()
            .filter(|(_, (_, named))| *named != listing)
            .map(|(key, _)| key.clone())
            .collect();
        gone.into_iter().filter_map(|key| self.remove(&key).map(|value| (key, value))).collect()
    }

    /// Whether there was a complete listing.
    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Puts it there, or in its own place. Gives what was there.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.items.insert(key, (value, self.listing)).map(|(old, _)| old)
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.items.remove(key).map(|(value, _)| value)
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.items.get(key).map(|(value, _)| value)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.items.get_mut(key).map(|(value, _)| value)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.items.contains_key(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.items.iter().map(|(key, (value, _))| (key, value))
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.items.values_mut().map(|(value, _)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complete_listing_replaces_what_was_known() {
        let mut cache = Cache::default();
        assert!(!cache.is_complete());
        cache.list();
        cache.insert("a", 1);
        cache.insert("b", 2);
        assert!(cache.listed().is_empty() && cache.is_complete());
        assert_eq!(cache.insert("a", 3), Some(1));
        // Broken off: nothing is lost.
        cache.list();
        cache.insert("b", 4);
        cache.list();
        cache.insert("c", 5);
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(&3), Some(&4)));
        let mut gone = cache.listed();
        gone.sort_unstable();
        assert_eq!(gone, [("a", 3), ("b", 4)]);
        assert_eq!(cache.iter().collect::<Vec<_>>(), [(&"c", &5)]);
    }
}
