//! Which nodes there are, and which ones records name that are not there any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use capture_api::names::is_subdomain;

use crate::cache::Cache;

/// Nodes of the cluster, and those that are missing.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    /// Those that the API server tells of, by name.
    pub(crate) present: Cache<String, ()>,
    missing: HashMap<Arc<str>, Missing>,
}

/// A node that records name and that is not there.
#[derive(Debug)]
struct Missing {
    since: Instant,
    /// When to look at its records.
    look: Instant,
}

impl Nodes {
    /// Compares with the nodes that records name.
    pub(crate) fn compare(&mut self, named: HashSet<Arc<str>>, now: Instant, gone_after: Duration) {
        if !self.present.is_complete() {
            return;
        }
        let present = &self.present;
        self.missing.retain(|node, _| named.contains(node) && !present.contains(&node.to_string()));
        for node in named {
            // What can be no node's name is nothing to ask the API server for.
            if is_subdomain(&node) && !present.contains(&node.to_string()) {
                self.missing.entry(node).or_insert_with(|| Missing { since: now, look: now + gone_after });
            }
        }
    }

    /// A node is there (again).
    pub(crate) fn back(&mut self, node: &str) {
        self.missing.remove(node);
    }

    /// A node that has been gone for long enough, and whose records are to be looked at now: the one that waits longest.
    pub(crate) fn due(&self, now: Instant) -> Option<Arc<str>> {
        let due = self.missing.iter().filter(|(_, missing)| missing.look <= now);
        due.min_by_key(|(_, missing)| (missing.look, missing.since)).map(|(node, _)| node.clone())
    }

    /// Its records have been looked at; do so again at `look`.
    pub(crate) fn looked(&mut self, node: &str, look: Instant) {
        if let Some(missing) = self.missing.get_mut(node) {
            missing.look = look;
        }
    }

    /// How many are gone, those included that are not gone for long.
    pub(crate) fn missing(&self) -> usize {
        self.missing.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GONE_AFTER: Duration = Duration::from_secs(300);

    fn named(names: &[&str]) -> HashSet<Arc<str>> {
        names.iter().map(|name| Arc::from(*name)).collect()
    }

    fn nodes(names: &[&str]) -> Nodes {
        let mut nodes = Nodes::default();
        nodes.present.list();
        for name in names {
            nodes.present.insert((*name).to_owned(), ());
        }
        nodes.present.listed();
        nodes
    }

    #[test]
    fn a_node_is_gone_when_it_has_been_missing_for_long_enough() {
        let (mut nodes, start) = (nodes(&["n1"]), Instant::now());
        nodes.compare(named(&["n1", "n2", "", "a,b"]), start, GONE_AFTER);
        assert_eq!((nodes.missing(), nodes.due(start + Duration::from_secs(299))), (1, None));
        nodes.compare(named(&["n1", "n2"]), start + Duration::from_secs(200), GONE_AFTER);
        assert_eq!(nodes.due(start + GONE_AFTER).as_deref(), Some("n2"));
        nodes.looked("n2", start + GONE_AFTER + Duration::from_secs(60));
        assert_eq!(nodes.due(start + GONE_AFTER), None);
        assert_eq!(nodes.due(start + Duration::from_secs(360)).as_deref(), Some("n2"));
    }

    #[test]
    fn a_node_that_comes_back_or_has_no_records_left_is_not_gone() {
        let (mut nodes, start) = (nodes(&["n1"]), Instant::now());
        nodes.compare(named(&["n2", "n3"]), start, GONE_AFTER);
        assert_eq!(nodes.missing(), 2);
        nodes.present.insert("n2".to_owned(), ());
        nodes.back("n2");
        nodes.compare(named(&["n2"]), start, GONE_AFTER);
        assert_eq!((nodes.missing(), nodes.due(start + GONE_AFTER)), (0, None));
        // Its time begins anew when it goes again.
        nodes.present.remove(&"n2".to_owned());
        nodes.compare(named(&["n2"]), start + GONE_AFTER, GONE_AFTER);
        assert_eq!(nodes.due(start + GONE_AFTER + Duration::from_secs(1)), None);
    }

    #[test]
    fn before_the_nodes_are_listed_none_is_missing() {
        let (mut nodes, start) = (Nodes::default(), Instant::now());
        nodes.compare(named(&["n1"]), start, GONE_AFTER);
        assert_eq!(nodes.missing(), 0);
    }
}
