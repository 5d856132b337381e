//! What is read of objects of the API server: only what matters here, so that little is kept of them.

use std::{collections::BTreeMap, net::IpAddr};

use capture_api::{CapturePolicy, PacketCapture, PodCapture, Policy, Refusal, few_metadata, keys};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

/// Annotation of a static pod's mirror: the UID that container runtimes know the pod by.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// A pod.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "Pod")]
pub(super) struct WatchedPod {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: WatchedPodSpec,
    #[serde(default)]
    status: WatchedPodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedPodSpec {
    #[serde(default)]
    host_network: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WatchedPodStatus {
    #[serde(default)]
    phase: String,
    #[serde(default, rename = "podIPs")]
    pod_ips: Vec<WatchedPodIp>,
    #[serde(default)]
    container_statuses: Vec<WatchedContainer>,
}

#[derive(Clone, Debug, Deserialize)]
struct WatchedPodIp {
    #[serde(default)]
    ip: String,
}

#[derive(Clone, Debug, Deserialize)]
struct WatchedContainer {
    #[serde(default, rename = "containerID")]
    container_id: String,
}

/// A PacketCapture.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "PacketCapture")]
pub(super) struct WatchedCapture {
    #[serde(deserialize_with = "few_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

/// A CapturePolicy.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "CapturePolicy")]
pub(super) struct WatchedPolicy {
    #[serde(deserialize_with = "few_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
}

/// A PodCapture.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "PodCapture")]
pub(super) struct WatchedRecord {
    pub(super) metadata: ObjectMeta,
    #[serde(default)]
    pub(super) spec: Value,
    #[serde(default)]
    pub(super) status: Value,
}

/// Whose object it is, within its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Name {
    /// Empty for what has none.
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Name {
    pub(super) fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

/// What is kept of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownPod {
    pub(super) uid: String,
    pub(super) labels: BTreeMap<String, String>,
    /// Those of podtap only.
    pub(super) annotations: BTreeMap<String, String>,
    /// Of a static pod.
    pub(super) config_hash: Option<String>,
    pub(super) host_network: bool,
    /// Its processes have ended for good.
    pub(super) finished: bool,
    pub(super) deleting: bool,
    pub(super) addresses: Vec<IpAddr>,
    /// The ids of its containers, one after the other: another sandbox has others.
    pub(super) containers: String,
}

impl From<WatchedPod> for KnownPod {
    fn from(pod: WatchedPod) -> Self {
        let WatchedPod { metadata, spec, status } = pod;
        let mut annotations = metadata.annotations.unwrap_or_default();
        let config_hash = annotations.remove(CONFIG_HASH);
        annotations.retain(|key, _| key.starts_with(keys::PREFIX));
        let containers: Vec<_> =
            status.container_statuses.into_iter().map(|container| container.container_id).collect();
        Self {
            uid: metadata.uid.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            annotations,
            config_hash,
            host_network: spec.host_network,
            finished: matches!(status.phase.as_str(), "Succeeded" | "Failed"),
            deleting: metadata.deletion_timestamp.is_some(),
            addresses: status.pod_ips.iter().filter_map(|address| address.ip.parse().ok()).collect(),
            containers: containers.concat(),
        }
    }
}

/// What is kept of a PacketCapture: its spec as text, which takes a tenth of the room of anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownCapture {
    pub(super) uid: String,
    pub(super) created: Timestamp,
    /// JSON, or why it is not kept.
    pub(super) spec: Result<Box<str>, Refusal>,
    /// Somebody deletes it, and something else holds it back.
    pub(super) deleting: bool,
}

impl From<WatchedCapture> for KnownCapture {
    fn from(capture: WatchedCapture) -> Self {
        let metadata = capture.metadata;
        Self {
            uid: metadata.uid.unwrap_or_default(),
            created: metadata.creation_timestamp.map_or_else(Timestamp::now, |Time(time)| time),
            spec: Ok(capture.spec.to_string().into_boxed_str()),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

/// What is kept of a CapturePolicy.
#[derive(Clone, Debug)]
pub(super) struct KnownPolicy {
    /// JSON.
    spec: Box<str>,
    pub(super) policy: Policy,
}

impl From<WatchedPolicy> for KnownPolicy {
    fn from(policy: WatchedPolicy) -> Self {
        let name = policy.metadata.name.unwrap_or_default();
        Self { spec: policy.spec.to_string().into_boxed_str(), policy: Policy::read(&name, &policy.spec) }
    }
}

impl PartialEq for KnownPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
    }
}

/// What is kept of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownNamespace {
    pub(super) uid: String,
    pub(super) labels: BTreeMap<String, String>,
}

impl From<ObjectMeta> for KnownNamespace {
    fn from(metadata: ObjectMeta) -> Self {
        Self { uid: metadata.uid.unwrap_or_default(), labels: metadata.labels.unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pod_only_what_matters_is_kept() {
        let pod: WatchedPod = serde_json::from_value(json!({
            "metadata": {
                "namespace": "team-a", "name": "web", "uid": "u", "labels": {"app": "web"},
                "annotations": {"podtap.dev/filter": "tcp", "big.example.com/x": "y", CONFIG_HASH: "h"},
                "managedFields": [{"manager": "m", "fieldsV1": {"f:metadata": {}}}],
                "deletionTimestamp": "2026-12-01T10:00:00Z"
            },
            "spec": {"containers": [{"name": "c"}], "nodeName": "node1"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "containerStatuses": [{"name": "a", "containerID": "containerd://1"}, {"name": "b"}]}
        }))
        .unwrap();
        assert_eq!(Name::of(&pod.metadata), Name { namespace: "team-a".into(), name: "web".into() });
        let known = KnownPod::from(pod);
        assert_eq!(known.annotations.keys().collect::<Vec<_>>(), ["podtap.dev/filter"]);
        assert_eq!(known.config_hash.as_deref(), Some("h"));
        assert_eq!(known.addresses, [IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().unwrap()]);
        assert_eq!(known.containers, "containerd://1");
        assert!(known.deleting && !known.finished && !known.host_network);
    }

    #[test]
    fn a_pod_that_has_no_status_yet_is_read() {
        let pod: WatchedPod = serde_json::from_value(
            json!({"metadata": {"name": "web", "uid": "u"}, "spec": {"hostNetwork": true}}),
        )
        .unwrap();
        let known = KnownPod::from(pod);
        assert!(known.host_network && known.addresses.is_empty() && !known.finished);
        let done: WatchedPod =
            serde_json::from_value(json!({"metadata": {}, "status": {"phase": "Succeeded"}})).unwrap();
        assert!(KnownPod::from(done).finished);
    }
}
