//! Everything that is known of the cluster, and what follows from it for this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use capture_api::{Caps, Defaults, Refusal, govern, keys, reasons};
use jiff::Timestamp;
use tracing::{info, warn};

use super::{
    captures::Captures,
    collection::Collection,
    objects::{KnownCapture, KnownNamespace, KnownPod, KnownPolicy, Name},
};
use crate::{
    pods::{Place, PodClaim, PodPlace},
    requests::{
        capture::{ReadSpec, read_spec},
        desired::{Accepted, CaptureObject, NamespaceRules, PodObject, Rules, desired},
    },
    session::wanted::{PodRef, RunKey, Wanted},
};

/// The objects that are watched.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Of this node.
    pub(super) pods: Collection<KnownPod>,
    /// Of the whole cluster.
    pub(super) captures: Captures,
    pub(super) policies: Collection<KnownPolicy>,
    pub(super) namespaces: Collection<KnownNamespace>,
    /// Captures of namespaces that have pods here, as they were read last.
    read: BTreeMap<Name, Read>,
    /// Policies that cannot be read, as they were complained of.
    complained: BTreeMap<String, String>,
}

/// A capture and what it was read from.
#[derive(Debug)]
struct Read {
    from: KnownCapture,
    object: Result<CaptureObject, Refusal>,
}

/// A capture that means no pods, as far as can be told, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointless {
    pub(super) name: Name,
    pub(super) uid: String,
    pub(super) refusal: Refusal,
}

impl Store {
    /// Whether each kind has been listed once.
    pub(super) fn listed(&self) -> bool {
        self.pods.listed() && self.captures.listed() && self.policies.listed() && self.namespaces.listed()
    }

    /// UIDs of namespaces, by name.
    pub(super) fn namespace_uids(&self) -> BTreeMap<String, String> {
        self.namespaces.iter().map(|(name, namespace)| (name.name.clone(), namespace.uid.clone())).collect()
    }

    /// The addresses that pods of this node have now.
    pub(super) fn claims(&self) -> impl Iterator<Item = PodClaim> {
        self.pods.values().filter(|pod| has_addresses(pod)).map(|pod| PodClaim {
            uid: pod.uid.clone(),
            sandbox: pod.containers.clone(),
            addresses: pod.addresses.clone(),
        })
    }

    /// Which runs are wanted of this node. `away` forbids them all.
    pub(super) fn wanted(
        &mut self,
        accepted: &mut Accepted,
        defaults: &Defaults,
        fallback: &Caps,
        away: Option<&Refusal>,
    ) -> (BTreeMap<RunKey, Wanted>, Vec<Pointless>) {
        let (pods, pointless) = self.pods_asked_for();
        let captures = self.read.values().filter_map(|read| read.object.as_ref().ok());
        let rules = ClusterRules { store: self, defaults, fallback, away };
        let mut wanted = desired(&pods, captures, accepted, Timestamp::now(), &rules);
        for wanted in wanted.values_mut() {
            // A destination that was allowed and is not any more: nothing may go there, not even what it was begun for.
            if let Err(refusal) = &wanted.settings
                && refusal.reason == reasons::UNKNOWN_OUTPUT
            {
                wanted.forbidden.get_or_insert_with(|| refusal.clone());
            }
        }
        (wanted, pointless)
    }

    /// Pods that a label or a capture may ask for; the captures of their namespaces are read. Most nodes have most of
    /// the time none.
    fn pods_asked_for(&mut self) -> (Vec<PodObject>, Vec<Pointless>) {
        let with_captures: BTreeSet<&str> =
            self.captures.iter().map(|(name, _)| name.namespace.as_str()).collect();
        let mut here: BTreeSet<&str> = BTreeSet::new();
        let mut pods = Vec::new();
        for (name, pod) in self.pods.iter() {
            let captured = with_captures.contains(name.namespace.as_str());
            let labelled = pod.labels.contains_key(keys::CAPTURE);
            if pod.finished || !(captured || labelled) {
                continue;
            }
            // A pod may be heard of before its namespace is; then it waits this moment.
            let of = Name { namespace: String::new(), name: name.namespace.clone() };
            let Some(namespace) = self.namespaces.get(&of) else { continue };
            pods.push(pod_object(name, pod, &namespace.uid));
            if captured {
                here.insert(&name.namespace);
            }
        }
        let mut pointless = Vec::new();
        let mut before = std::mem::take(&mut self.read);
        for (name, capture) in self.captures.iter() {
            if capture.deleting || !here.contains(name.namespace.as_str()) {
                continue;
            }
            let read = match before.remove(name) {
                Some(read) if read.from == *capture => read,
                _ => {
                    let object = capture_object(name, capture);
                    if let Err(refusal) = &object {
                        warn!(namespace = name.namespace, capture = name.name, "{refusal}");
                        pointless.push(Pointless {
                            name: name.clone(),
                            uid: capture.uid.clone(),
                            refusal: refusal.clone(),
                        });
                    }
                    Read { from: capture.clone(), object }
                }
            };
            self.read.insert(name.clone(), read);
        }
        (pods, pointless)
    }

    /// Logs what cannot be read of policies, once, and when it can be read again.
    pub(super) fn complain_of_policies(&mut self) {
        let mut still = BTreeMap::new();
        for known in self.policies.values() {
            let (name, problem) = (known.policy.name(), known.policy.problem());
            let Some(problem) = problem else { continue };
            if self.complained.get(name).map(String::as_str) != Some(problem) {
                warn!(
                    policy = name,
                    problem,
                    "a CapturePolicy cannot be read: whom it concerns may capture nothing until it is mended"
                );
            }
            still.insert(name.to_owned(), problem.to_owned());
        }
        for name in self.complained.keys().filter(|name| !still.contains_key(*name)) {
            info!(policy = name, "the CapturePolicy is in order again, or gone");
        }
        self.complained = still;
    }
}

/// What policies say of namespaces.
struct ClusterRules<'a> {
    store: &'a Store,
    defaults: &'a Defaults,
    fallback: &'a Caps,
    away: Option<&'a Refusal>,
}

impl Rules for ClusterRules<'_> {
    fn of(&self, namespace: &str) -> Result<NamespaceRules, Refusal> {
        if let Some(refusal) = self.away {
            return Err(refusal.clone());
        }
        let name = Name { namespace: String::new(), name: namespace.to_owned() };
        let unknown = KnownNamespace::default();
        let labels = &self.store.namespaces.get(&name).unwrap_or(&unknown).labels;
        let policies = self.store.policies.values().map(|known| &known.policy);
        let governed = govern(namespace, labels, policies, self.fallback)?;
        Ok(NamespaceRules {
            defaults: self.defaults.clone(),
            caps: governed.caps,
            label_requests: governed.label_requests,
        })
    }
}

/// Once a pod is being deleted its addresses may be another's before this is heard of.
fn has_addresses(pod: &KnownPod) -> bool {
    !(pod.finished || pod.deleting || pod.host_network)
}

fn pod_object(name: &Name, pod: &KnownPod, namespace_uid: &str) -> PodObject {
    let Name { namespace, name } = name.clone();
    let addresses = if has_addresses(pod) { pod.addresses.clone() } else { Vec::new() };
    let mut problem = keys::PLACES.into_iter().find(|key| pod.annotations.contains_key(*key)).map(|key| {
        Refusal::new(
            reasons::INVALID_INTERFACE,
            format!(
                "Annotation {key} is for hosts without Kubernetes; here the pod's interface is found. Remove it to \
                 capture the pod."
            ),
        )
    });
    let place = if pod.host_network {
        problem.get_or_insert(Refusal::new(
            reasons::HOST_NETWORK,
            "The pod uses the node's own network (spec.hostNetwork), which holds everybody's packets; it cannot be \
             captured.",
        ));
        None
    } else {
        let sandbox_uids = std::iter::once(&pod.uid).chain(&pod.config_hash).cloned().collect();
        Some(Place::Pod(PodPlace {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: pod.uid.clone(),
            sandbox_uids,
            addresses: addresses.clone(),
            interface: None,
        }))
    };
    let pod_ref = PodRef {
        namespace,
        namespace_uid: namespace_uid.to_owned(),
        name,
        uid: pod.uid.clone(),
        labels: pod.labels.clone(),
        addresses,
        place,
    };
    PodObject { pod: pod_ref, annotations: pod.annotations.clone(), problem, notes: Vec::new() }
}

fn capture_object(name: &Name, capture: &KnownCapture) -> Result<CaptureObject, Refusal> {
    let spec = capture.spec.as_ref().map_err(Refusal::clone)?;
    let spec = serde_json::from_str(spec).map_err(|error| {
        Refusal::new(reasons::INVALID_VALUE, format!("The capture cannot be read: {error}."))
    })?;
    let ReadSpec { selection, spec } = read_spec(spec)?;
    Ok(CaptureObject {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
        uid: capture.uid.clone(),
        // All nodes agree on it, and an agent's restart does not change it.
        accepted: Some(capture.created),
        selection,
        spec,
        notes: Vec::new(),
    })
}

/// Namespaces' UIDs as they are now; shared with whoever writes into them.
pub(super) type NamespaceUids = Arc<std::sync::Mutex<BTreeMap<String, String>>>;

#[cfg(test)]
mod tests;
