//! Which CapturePolicies concern a namespace, and what follows from all of them together.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::{Selector, SelectorExt};
use serde_json::Value;

use crate::{Caps, CapturePolicySpec, Refusal, keys, reasons, strict};

/// A CapturePolicy as an agent knows it.
#[derive(Clone, Debug)]
pub struct Policy {
    name: String,
    /// Whom it concerns; an error is a selector that cannot be read: it may concern everybody.
    selector: Result<Selector, String>,
    /// What it says, or why that cannot be read.
    spec: Result<CapturePolicySpec, String>,
}

/// What the captures of a namespace may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governed {
    /// The tightest of every cap.
    pub caps: Caps,
    /// Whether a pod's label starts captures.
    pub label_requests: bool,
}

impl Policy {
    /// Reads the policy of that name from its `spec`, as the API server holds it. What cannot be read allows nothing
    /// to whomever it concerns: no cap is taken for absent because it is misspelt.
    #[must_use]
    pub fn read(name: &str, spec: &Value) -> Self {
        let name = name.to_owned();
        let selector = spec
            .get("namespaceSelector")
            .cloned()
            .ok_or_else(|| "spec.namespaceSelector is missing".to_owned())
            .and_then(|selector| {
                serde_json::from_value::<LabelSelector>(selector)
                    .map_err(|error| format!("spec.namespaceSelector: {error}"))
            })
            .and_then(|selector| {
                Selector::try_from(selector).map_err(|error| {
                    format!(
                        "spec.namespaceSelector.matchExpressions: {error}; operators are In and NotIn (with values), \
                         Exists and DoesNotExist"
                    )
                })
            });
        let spec = strict::check::<CapturePolicySpec>(spec, "spec")
            .map_err(|error| error.to_string())
            .and_then(|()| {
                serde_json::from_value::<CapturePolicySpec>(spec.clone()).map_err(|e| e.to_string())
            })
            .and_then(|spec| match Caps::resolve([&spec.caps], &Caps::default()) {
                Ok(_) => Ok(spec),
                Err(refusal) => Err(format!("spec.{}", refusal.message.trim_end_matches('.'))),
            });
        Self { name, selector, spec }
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What about it cannot be read, if anything: then nobody whom it concerns may capture.
    #[must_use]
    pub fn problem(&self) -> Option<&str> {
        self.selector.as_ref().err().or(self.spec.as_ref().err()).map(String::as_str)
    }

    fn concerns(&self, labels: &BTreeMap<String, String>) -> bool {
        self.selector.as_ref().is_ok_and(|selector| selector.matches(labels))
    }
}

/// What the captures of the namespace with these labels may do: all policies that select it apply, the tightest value
/// wins, and `fallback` fills what none names.
///
/// # Errors
/// No policy selects it, one that does is suspended or leaves nothing, or one that may concern it cannot be read.
pub fn govern<'a>(
    namespace: &str,
    labels: &BTreeMap<String, String>,
    policies: impl IntoIterator<Item = &'a Policy>,
    fallback: &Caps,
) -> Result<Governed, Refusal> {
    let mut concerned: Vec<&Policy> = Vec::new();
    let mut unreadable = None;
    for policy in policies {
        if policy.concerns(labels) {
            concerned.push(policy);
        }
        if policy.problem().is_some() && (policy.selector.is_err() || policy.concerns(labels)) {
            unreadable.get_or_insert(policy);
        }
    }
    if concerned.is_empty() {
        return Err(Refusal::new(
            reasons::NOT_ALLOWED,
            format!(
                "Namespace {namespace} may not capture: no CapturePolicy selects it. A cluster admin allows it with \
                 `kubectl label namespace {namespace} {}=true`.",
                keys::ALLOW
            ),
        ));
    }
    let specs = || concerned.iter().filter_map(|policy| Some((policy, policy.spec.as_ref().ok()?)));
    if let Some((policy, _)) = specs().find(|(_, spec)| spec.suspended) {
        return Err(Refusal::new(
            reasons::SUSPENDED,
            format!(
                "An admin suspended all captures in namespace {namespace} (CapturePolicy {}).",
                policy.name
            ),
        ));
    }
    if let Some(policy) = unreadable {
        return Err(Refusal::new(
            reasons::INVALID_POLICY,
            format!(
                "CapturePolicy {} cannot be read, so nothing may be captured until an admin mends it: {}.",
                policy.name,
                policy.problem().unwrap_or_default()
            ),
        ));
    }
    if let Some((policy, field)) = specs().find_map(|(policy, spec)| Some((policy, spec.caps.nothing()?))) {
        return Err(Refusal::new(
            reasons::NOT_ALLOWED,
            format!(
                "Namespace {namespace} may not capture: caps.{field} of CapturePolicy {} is 0.",
                policy.name
            ),
        ));
    }
    Ok(Governed {
        caps: Caps::resolve(specs().map(|(_, spec)| &spec.caps), fallback)?,
        label_requests: specs().all(|(_, spec)| spec.label_requests != Some(false)),
    })
}

#[cfg(test)]
mod tests;
