//! CapturePolicy: what an admin allows to namespaces.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{CapsSpec, schema};

/// What the selected namespaces may capture. All matching policies apply; the tightest value wins.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "podtap.dev",
    version = "v1alpha1",
    kind = "CapturePolicy",
    plural = "capturepolicies",
    category = "podtap",
    doc = "Allows captures to namespaces and caps them. A namespace that no policy selects may not capture.",
    printcolumn = r#"{"name":"SUSPENDED","type":"boolean","jsonPath":".spec.suspended"}"#,
    printcolumn = r#"{"name":"DURATION","type":"string","jsonPath":".spec.caps.duration"}"#,
    printcolumn = r#"{"name":"BYTES","type":"string","jsonPath":".spec.caps.bytes"}"#,
    printcolumn = r#"{"name":"AT-ONCE","type":"string","jsonPath":".spec.caps.captures"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"NAMESPACES","type":"string","jsonPath":".spec.namespaceSelector","priority":1}"#,
    printcolumn = r#"{"name":"PACKETS","type":"string","jsonPath":".spec.caps.packets","priority":1}"#,
    printcolumn = r#"{"name":"HEADERS-ONLY","type":"boolean","jsonPath":".spec.caps.headersOnly","priority":1}"#,
    printcolumn = r#"{"name":"RETENTION","type":"string","jsonPath":".spec.caps.retention","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
pub struct CapturePolicySpec {
    /// Namespaces by their labels; `{}` selects all.
    #[schemars(schema_with = "schema::selector")]
    pub namespace_selector: LabelSelector,
    /// The kill switch: nothing that this policy selects captures, files are kept.
    #[serde(default)]
    pub suspended: bool,
    /// Whether the pod label starts captures; a PacketCapture is needed otherwise. Yes when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_requests: Option<bool>,
    /// What a capture cannot exceed.
    #[serde(default)]
    pub caps: CapsSpec,
}
