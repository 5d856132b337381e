//! Which namespaces may capture, and within which caps: CapturePolicies and the labels of namespaces.

use std::collections::BTreeMap;

use capture_api::{Caps, Policy, Refusal, govern};
use kube::ResourceExt;
use kube::core::DynamicObject;
use serde_json::Value;
use tracing::warn;

use crate::agents::Agents;
use crate::cache::Cache;

/// All policies, and the namespaces that they select by their labels.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// By name.
    pub(crate) policies: Cache<String, Policy>,
    /// Labels by namespace.
    pub(crate) namespaces: Cache<String, BTreeMap<String, String>>,
    /// What holds where policies say nothing.
    pub(crate) agents: Agents,
}

impl Rules {
    /// A policy is there, or has changed.
    pub(crate) fn apply(&mut self, object: &DynamicObject) {
        let name = object.name_any();
        let policy = Policy::read(&name, object.data.get("spec").unwrap_or(&Value::Null));
        if let Some(problem) = policy.problem() {
            warn!(policy = %name, %problem, "this policy cannot be read: whom it concerns may not capture");
        }
        self.policies.insert(name, policy);
    }

    /// The caps of a namespace, where its policies say nothing those of the agents.
    ///
    /// # Errors
    /// Why nothing may be captured there, for its users.
    pub(crate) fn caps(&self, namespace: &str) -> Result<Caps, Refusal> {
        let none = BTreeMap::new();
        let labels = self.namespaces.get(&namespace.to_owned()).unwrap_or(&none);
        let mut policies: Vec<&Policy> = self.policies.iter().map(|(_, policy)| policy).collect();
        // Of several that say no, always the same one is named.
        policies.sort_unstable_by_key(|policy| policy.name());
        govern(namespace, labels, policies, &self.agents.caps).map(|governed| governed.caps)
    }
}

#[cfg(test)]
mod tests {
    use capture_api::reasons;
    use serde_json::json;

    use super::*;

    fn rules(policies: &[(&str, Value)], labels: &[(&str, &str)]) -> Rules {
        let mut rules = Rules::default();
        for (name, spec) in policies {
            let object = json!({"apiVersion": "podtap.dev/v1alpha1", "kind": "CapturePolicy",
                "metadata": {"name": name}, "spec": spec});
            rules.apply(&serde_json::from_value(object).unwrap());
        }
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        rules.namespaces.insert("team-a".to_owned(), labels);
        rules
    }

    fn allow(more: Value) -> Value {
        let mut spec = json!({"namespaceSelector": {"matchLabels": {"podtap.dev/allow": "true"}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    }

    #[test]
    fn a_namespace_that_no_policy_selects_may_not_capture() {
        let policies = [("default", allow(json!({})))];
        let reason = |labels: &[_], namespace| rules(&policies, labels).caps(namespace).unwrap_err().reason;
        assert_eq!(reason(&[], "team-a"), reasons::NOT_ALLOWED);
        assert_eq!(reason(&[("podtap.dev/allow", "true")], "team-b"), reasons::NOT_ALLOWED);
        assert!(rules(&policies, &[("podtap.dev/allow", "true")]).caps("team-a").is_ok());
    }

    #[test]
    fn every_policy_of_the_namespace_counts() {
        let labels = [("podtap.dev/allow", "true")];
        let mut policies = vec![
            ("a", allow(json!({"caps": {"duration": "1h", "packets": 10}}))),
            ("b", allow(json!({"caps": {"duration": "5m"}}))),
            ("c", json!({"namespaceSelector": {"matchLabels": {"other": "x"}}, "suspended": true})),
        ];
        let caps = rules(&policies, &labels).caps("team-a").unwrap();
        assert_eq!((caps.duration.to_string().as_str(), caps.packets), ("5m", Some(10)));
        policies.push(("d", json!({"namespaceSelector": {}, "suspended": true})));
        assert_eq!(rules(&policies, &labels).caps("team-a").unwrap_err().reason, reasons::SUSPENDED);
    }
}
