//! PodCapture: one run, the capture of one pod once, as its node's agent tells it.

use jiff::Timestamp;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Settings, human_bytes, schema};

/// Which pod is captured for which request, on which node and with which settings.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "podtap.dev",
    version = "v1alpha1",
    kind = "PodCapture",
    namespaced,
    status = "PodCaptureStatus",
    shortname = "podcap",
    category = "podtap",
    doc = "The record of one run: the capture of one pod once. Written by the agent of the pod's node.",
    selectable = ".spec.node",
    selectable = ".spec.pod",
    selectable = ".spec.capture",
    selectable = ".status.state",
    printcolumn = r#"{"name":"CAPTURE","type":"string","jsonPath":".spec.capture"}"#,
    printcolumn = r#"{"name":"POD","type":"string","jsonPath":".spec.pod"}"#,
    printcolumn = r#"{"name":"NODE","type":"string","jsonPath":".spec.node"}"#,
    printcolumn = r#"{"name":"STATE","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"PACKETS","type":"integer","jsonPath":".status.packets"}"#,
    printcolumn = r#"{"name":"DROPPED","type":"integer","jsonPath":".status.dropped"}"#,
    printcolumn = r#"{"name":"SIZE","type":"string","jsonPath":".status.size"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"REASON","type":"string","jsonPath":".status.reason","priority":1}"#,
    printcolumn = r#"{"name":"INTERFACE","type":"string","jsonPath":".status.interface","priority":1}"#,
    printcolumn = r#"{"name":"ATTACHED","type":"string","jsonPath":".status.attachMode","priority":1}"#,
    printcolumn = r#"{"name":"STARTED","type":"date","jsonPath":".status.startTime","priority":1}"#,
    printcolumn = r#"{"name":"MESSAGE","type":"string","jsonPath":".status.message","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
// A rule of a field is not asked when the field comes or goes.
#[schemars(extend("x-kubernetes-validations" = schema::fixed_presence(&["namespaceUID", "capture", "requestUID"])))]
pub struct PodCaptureSpec {
    /// The pod's full name.
    #[schemars(schema_with = "schema::fixed_name")]
    pub pod: String,
    /// The pod's UID: a pod of the same name made later is another one.
    #[serde(rename = "podUID")]
    #[schemars(schema_with = "schema::fixed_uid")]
    pub pod_uid: String,
    /// The UID of the namespace; empty where there is no Kubernetes.
    #[serde(default, rename = "namespaceUID", skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::fixed_uid")]
    pub namespace_uid: String,
    /// Who asked: Label is the label on the pod, PacketCapture an object of that kind.
    #[schemars(extend("x-kubernetes-validations" = [{
        "rule": "self == oldSelf",
        "message": "a record tells of one run for good: this never changes",
    }]))]
    pub request: RequestKind,
    /// The PacketCapture's full name; absent for a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::fixed_name")]
    pub capture: Option<String>,
    /// The UID of the PacketCapture; the pod's for a label.
    #[serde(default, rename = "requestUID", skip_serializing_if = "String::is_empty")]
    #[schemars(schema_with = "schema::fixed_uid")]
    pub request_uid: String,
    /// The node. Never changes.
    #[schemars(schema_with = "schema::fixed_name")]
    pub node: String,
    /// The settings in force after defaults and caps; absent when the request was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
}

/// Who asked for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RequestKind {
    /// The label `podtap.dev/capture` on the pod.
    Label,
    /// A PacketCapture.
    PacketCapture,
}

/// Where a run is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RunState {
    /// Accepted; the pod's interface or the node's means are not there yet.
    #[default]
    Pending,
    /// Waits for its start time.
    Scheduled,
    /// Attached; no packet has matched yet.
    WaitingForTraffic,
    /// Packets have been captured.
    Capturing,
    /// Attached or not, nothing is captured until state is Running again.
    Paused,
    /// Ended as asked: window over or limit reached.
    Completed,
    /// Ended before its time: stopped, its request removed, or its pod gone.
    Stopped,
    /// Never began; the message says what to change.
    Refused,
    /// Began or should have begun, and an error ended it.
    Failed,
}

impl RunState {
    /// Whether the run is over for good.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Stopped | Self::Refused | Self::Failed)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn none(count: &u64) -> bool {
    *count == 0
}

/// How a run stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCaptureStatus {
    /// Where the run is in its life. Pending, Scheduled, WaitingForTraffic, Capturing and Paused may still change;
    /// Completed, Stopped, Refused and Failed are final.
    #[serde(default)]
    pub state: RunState,
    /// Why, in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What was clipped or not taken over, one sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the pod sent.
    #[serde(default)]
    pub from_pod: DirectionStatus,
    /// What the pod received.
    #[serde(default)]
    pub to_pod: DirectionStatus,
    /// Packets that matched and were lost, by cause.
    #[serde(default)]
    pub drops: Drops,
    /// Packets that sampling left out.
    #[serde(default)]
    pub sampled_out: u64,
    /// Packets that were longer than the largest record and were cut there.
    #[serde(default)]
    pub truncated: u64,
    /// Packets that came after a limit was reached, before the tap was off. They are no loss: the capture was over.
    #[serde(default)]
    pub beyond_limit: u64,
    /// The host interface.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How the host interface is tapped: Tcx or Socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_mode: Option<String>,
    /// The newest files, oldest first: as many as a record has room for, some hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<FileStatus>,
    /// Older files that are kept beside these and not listed.
    #[serde(default, skip_serializing_if = "none")]
    pub files_not_listed: u64,
    /// Packets in files.
    #[serde(default)]
    pub packets: u64,
    /// Bytes of all files of the run as written, those that rotation deleted included.
    #[serde(default)]
    pub bytes: u64,
    /// `bytes` for people.
    #[serde(default)]
    pub size: String,
    /// All drops together.
    #[serde(default)]
    pub dropped: u64,
    /// When the run began to capture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
}

impl PodCaptureStatus {
    /// Sets `dropped` and `size` from what they sum up.
    pub fn summarize(&mut self) {
        self.dropped = self.drops.ring + self.drops.rate + self.drops.storage;
        self.size = human_bytes(self.bytes);
    }
}

/// One direction's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct DirectionStatus {
    /// Packets that came by.
    pub seen: u64,
    /// Packets that the filter accepted.
    pub matched: u64,
    /// Packets handed to the agent.
    pub captured: u64,
    /// Bytes of the packets in `captured`, as they were on the wire.
    pub bytes: u64,
}

/// Packets that were lost, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Drops {
    /// The ring buffer was full: the agent did not keep up.
    pub ring: u64,
    /// Over the rate limit.
    pub rate: u64,
    /// The disk or the node's share of it did not keep up.
    pub storage: u64,
}

/// One file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    /// The file's name in the run's directory.
    pub name: String,
    /// Bytes as written.
    pub bytes: u64,
}
