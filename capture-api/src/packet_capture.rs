//! PacketCapture: a user's request to capture pods of the same namespace.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Amount, schema};

/// Which pods of this namespace to capture, which of their packets, how much and for how long.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "podtap.dev",
    version = "v1alpha1",
    kind = "PacketCapture",
    namespaced,
    status = "PacketCaptureStatus",
    shortname = "pcap",
    category = "podtap",
    selectable = ".spec.state",
    doc = "Captures the packets of pods of its namespace into pcapng files, one run per pod.",
    printcolumn = r#"{"name":"STATE","type":"string","jsonPath":".spec.state"}"#,
    printcolumn = r#"{"name":"PODS","type":"integer","jsonPath":".status.pods"}"#,
    printcolumn = r#"{"name":"CAPTURING","type":"integer","jsonPath":".status.capturing"}"#,
    printcolumn = r#"{"name":"FINISHED","type":"integer","jsonPath":".status.finished"}"#,
    printcolumn = r#"{"name":"FAILED","type":"integer","jsonPath":".status.failed"}"#,
    printcolumn = r#"{"name":"PACKETS","type":"integer","jsonPath":".status.packets"}"#,
    printcolumn = r#"{"name":"DROPPED","type":"integer","jsonPath":".status.dropped"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"BYTES","type":"integer","jsonPath":".status.bytes","priority":1}"#,
    printcolumn = r#"{"name":"FILTER","type":"string","jsonPath":".spec.filter","priority":1}"#,
    printcolumn = r#"{"name":"DURATION","type":"string","jsonPath":".spec.duration","priority":1}"#,
    printcolumn = r#"{"name":"COMPLETED","type":"string","jsonPath":".status.conditions[?(@.type=='Completed')].status","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {
        "rule": "has(self.podSelector) || (has(self.podNames) && size(self.podNames) > 0)",
        "message": "the capture names no pods: write podSelector ({} is every pod of the namespace) or podNames",
    },
    {
        "rule": "!(has(self.duration) && has(self.endTime))",
        "message": "duration and endTime are both set: leave one of them out",
    },
    {
        "rule": "!(has(self.startTime) && has(self.endTime)) || self.endTime > self.startTime",
        "message": "endTime is not after startTime: write a later one",
    },
    {
        "rule": "oldSelf.state != 'Stopped' || self.state == 'Stopped'",
        "message": "a stopped capture does not start again: create another PacketCapture",
    },
    {
        "rule": "has(self.startTime) ? has(oldSelf.startTime) && self.startTime == oldSelf.startTime : !has(oldSelf.startTime)",
        "message": "startTime never changes: create another PacketCapture",
    },
]))]
pub struct PacketCaptureSpec {
    /// Pods by their labels; `{}` selects every pod of the namespace. Pods that come later join.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::selector")]
    pub pod_selector: Option<LabelSelector>,
    /// Pods by name, in addition to those that podSelector selects. They need not exist yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::pod_names")]
    pub pod_names: Vec<String>,
    /// Which packets, in pcap-filter(7) syntax as tcpdump takes it, such as `tcp port 80`. All when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::filter")]
    pub filter: Option<String>,
    /// Which way packets go, seen from the pod: FromPod is what it sends, ToPod what it receives, Both is all.
    #[serde(default)]
    pub direction: Direction,
    /// For pods with several network interfaces: the one with this name inside the pod, such as `net1`. The default
    /// interface when absent, `eth0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[^\s/:]+$"))]
    pub interface: Option<String>,
    /// Bytes kept of each packet, from the Ethernet header on. Whole packets when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub snap_length: Option<Amount>,
    /// Keep link, network and transport headers only, nothing of what the pods say to each other.
    #[serde(default)]
    pub headers_only: bool,
    /// Keep one packet in this many; 1 keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub sample: Option<Amount>,
    /// The most that is captured per second of each pod; what is above is counted, not kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
    /// Where the capture of each pod ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// When a new file is begun, and how many are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RotationSpec>,
    /// When to begin (RFC 3339, such as `2026-12-01T10:00:00Z`). At once when absent. It never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::moment")]
    pub start_time: Option<String>,
    /// How long, such as `10m` or `1h30m`: one window for all pods, from the start on. Not together with endTime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration")]
    pub duration: Option<String>,
    /// When to end (RFC 3339). Not together with duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::moment")]
    pub end_time: Option<String>,
    /// What the capture should do now. Running captures within the window; Paused keeps everything ready and captures
    /// nothing while the window goes on; Stopped ends it and keeps the files, for good.
    #[serde(default)]
    pub state: DesiredState,
    /// How long files and records are kept after the end, such as `24h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration_or_none")]
    pub retention: Option<String>,
    /// Where finished files go. They stay on the node when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputSpec>,
}

/// Which way packets go, seen from the pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Direction {
    /// What the pod sends and what it receives.
    #[default]
    Both,
    /// What the pod sends.
    FromPod,
    /// What the pod receives.
    ToPod,
}

/// What a capture should do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DesiredState {
    /// Capture within the window.
    #[default]
    Running,
    /// Keep everything ready and capture nothing; the window goes on.
    Paused,
    /// End now and keep the files. A stopped capture does not start again.
    Stopped,
}

/// The most that is captured per second of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSpec {
    /// Packets per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub packets_per_second: Option<Amount>,
    /// Bytes per second of the packets as they were on the wire, such as `100Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub bytes_per_second: Option<Amount>,
}

/// Where the capture of one pod ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitsSpec {
    /// After this many packets, exactly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub packets: Option<Amount>,
    /// Before its files grow beyond this many bytes together, such as `1Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub bytes: Option<Amount>,
}

/// When a new file is begun. No packet is lost between files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RotationSpec {
    /// When a file has this many bytes, such as `100Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub file_bytes: Option<Amount>,
    /// Keep the newest so many files of each pod and delete older ones. All when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub files: Option<Amount>,
    /// When a file has been open for so long, such as `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::duration_of_a_second")]
    pub interval: Option<String>,
}

/// Where finished files go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputSpec {
    /// A destination that an admin defined, by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::output")]
    pub object_store: Option<String>,
}

/// How a PacketCapture stands, summed over its pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PacketCaptureStatus {
    /// The generation of the spec that this status tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, Capturing and Completed (the window is over and every run has ended).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Pods that were wanted so far.
    #[serde(default)]
    pub pods: u64,
    /// Runs that capture now.
    #[serde(default)]
    pub capturing: u64,
    /// Runs that ended as they should.
    #[serde(default)]
    pub finished: u64,
    /// Runs that were refused or failed.
    #[serde(default)]
    pub failed: u64,
    /// Packets in files.
    #[serde(default)]
    pub packets: u64,
    /// Bytes of files, as written.
    #[serde(default)]
    pub bytes: u64,
    /// Packets that were lost.
    #[serde(default)]
    pub dropped: u64,
}
