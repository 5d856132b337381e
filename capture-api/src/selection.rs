//! Which pods a PacketCapture means.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};

use crate::{PacketCaptureSpec, Refusal, reasons};

/// The pods that a PacketCapture means: by label, by name, or both (a pod is meant if either means it).
#[derive(Clone, Debug, Default)]
pub struct Selection {
    selector: Option<Selector>,
    names: Vec<String>,
}

impl Selection {
    /// Reads both ways of naming pods.
    ///
    /// # Errors
    /// Neither is there, or a selector's expression makes no sense.
    pub fn new(selector: Option<&LabelSelector>, names: &[String]) -> Result<Self, Refusal> {
        if selector.is_none() && names.is_empty() {
            return Err(Refusal::new(
                reasons::INVALID_VALUE,
                "The capture names no pods: write spec.podSelector (`{}` is every pod of the namespace) or \
                 spec.podNames.",
            ));
        }
        let selector = selector.cloned().map(Selector::try_from).transpose().map_err(|error| {
            Refusal::new(
                reasons::INVALID_VALUE,
                format!(
                    "spec.podSelector.matchExpressions: {error}; operators are In and NotIn (with values), Exists \
                     and DoesNotExist."
                ),
            )
        })?;
        Ok(Self { selector, names: names.to_vec() })
    }

    /// Whether a pod of the same namespace is meant.
    #[must_use]
    pub fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.names.iter().any(|known| known == name)
            || self.selector.as_ref().is_some_and(|selector| selector.matches(labels))
    }
}

impl PacketCaptureSpec {
    /// The pods that this capture means.
    ///
    /// # Errors
    /// See [`Selection::new`].
    pub fn selection(&self) -> Result<Selection, Refusal> {
        Selection::new(self.pod_selector.as_ref(), &self.pod_names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(json: &str) -> Result<Selection, Refusal> {
        serde_json::from_str::<PacketCaptureSpec>(json).unwrap().selection()
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn pods_are_meant_by_label_or_by_name() {
        let both = selection(r#"{"podSelector":{"matchLabels":{"app":"web"}},"podNames":["db"]}"#).unwrap();
        assert!(both.selects("web-0", &labels(&[("app", "web"), ("x", "y")])));
        assert!(both.selects("db", &labels(&[])));
        assert!(!both.selects("db-1", &labels(&[("app", "db")])));
    }

    #[test]
    fn expressions_select_as_in_kubernetes() {
        let json = r#"{"podSelector":{"matchExpressions":[{"key":"a","operator":"NotIn","values":["b"]},
            {"key":"c","operator":"Exists"}]}}"#;
        let selection = selection(json).unwrap();
        assert!(selection.selects("p", &labels(&[("c", "")])));
        assert!(!selection.selects("p", &labels(&[("a", "b"), ("c", "")])));
        assert!(!selection.selects("p", &labels(&[])));
    }

    #[test]
    fn an_empty_selector_means_every_pod_and_none_at_all_is_refused() {
        assert!(selection(r#"{"podSelector":{}}"#).unwrap().selects("p", &labels(&[])));
        assert!(selection("{}").unwrap_err().message.contains("spec.podSelector"));
        let bad = r#"{"podSelector":{"matchExpressions":[{"key":"a","operator":"Is"}]}}"#;
        assert!(selection(bad).unwrap_err().message.contains("DoesNotExist"));
    }
}
