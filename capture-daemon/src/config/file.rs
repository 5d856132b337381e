//! The configuration file as it is written. Each key is documented here and nowhere else;
//! `docs/agent.example.yaml` shows all of them with their defaults.

use std::path::PathBuf;

use capture_api::{Amount, CapsSpec};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{AttachModeChoice, LogFormat, LogLevel};

/// The node's configuration. Every key may be left out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigFile {
    /// Where captures are kept; made with mode 0700 when it is not there. Default /var/lib/podtap.
    pub(super) data_dir: Option<PathBuf>,
    /// The node's name in records and files. Default: NODE_NAME of the environment, else the host's name.
    pub(super) node_name: Option<String>,
    /// How interfaces are tapped: Auto (by trying), Tcx (Linux 6.6 and later) or Socket.
    pub(super) attach_mode: Option<AttachModeChoice>,
    /// Memory for ring buffers and write buffers together, at least 16Mi. 256Mi is enough for 100 captures.
    pub(super) memory_budget: Option<Amount>,
    /// Threads that write files, 1 to 16.
    pub(super) writers: Option<Amount>,
    /// The most bytes per second that all captures together write, such as 200Mi. No limit when absent. What is
    /// above is dropped, and counted as a storage drop of the capture that exceeds its share.
    pub(super) write_bandwidth: Option<Amount>,
    /// The most bytes that the data directory may hold, such as 50Gi. No limit but the disk's when absent.
    pub(super) quota: Option<Amount>,
    /// The most bytes that the captures of one namespace may hold together, such as 10Gi. No limit when absent.
    pub(super) quota_per_namespace: Option<Amount>,
    /// Captures stop before the disk of the data directory is fuller than this, in percent.
    pub(super) max_disk_percent: Option<Amount>,
    /// Where CNIs leave their results (libcni's cache), which say which interface is which pod's. Default
    /// [/var/lib/cni/results]; Multus has its own, /var/lib/cni/multus/results.
    pub(super) cni_cache_dirs: Option<Vec<PathBuf>>,
    /// Memory, out of memoryBudget, for packets of new interfaces until it is known whose they are: 32Mi let some 30
    /// pods of one capture start at once. 0: what a new pod sends first may be missed.
    pub(super) provisional_bytes: Option<Amount>,
    /// The most files of the manifest directory that are looked at.
    pub(super) max_manifests: Option<Amount>,
    /// Where metrics and health are served over HTTP (/metrics, /healthz, /readyz), such as 127.0.0.1:9471. Nowhere
    /// when absent, but on Kubernetes at that address.
    pub(super) http_address: Option<String>,
    /// Where health alone is served (/healthz, /readyz), whatever goes on at httpAddress. Nowhere when absent, but on
    /// Kubernetes at 127.0.0.1:9470, where kubelets ask.
    pub(super) health_address: Option<String>,
    /// On Kubernetes: captures are ended when the API server has been out of reach for so long, since nobody could
    /// stop them.
    pub(super) api_server_patience: Option<String>,
    /// What a request gets for what it does not name.
    pub(super) defaults: Option<DefaultsFile>,
    /// What no request exceeds: what it asks beyond is clipped, and its record says so.
    pub(super) caps: Option<CapsFile>,
    /// What the agent says, on standard error.
    pub(super) log: Option<LogFile>,
}

/// What a request gets for what it does not name.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DefaultsFile {
    /// How long a capture lasts.
    pub(super) duration: Option<String>,
    /// Bytes of files of one pod's capture.
    pub(super) bytes: Option<Amount>,
    /// Packets of one pod's capture. No limit when absent.
    pub(super) packets: Option<Amount>,
    /// Bytes kept of each packet. Whole packets when absent.
    pub(super) snap_length: Option<Amount>,
    /// How long files and records are kept after the end.
    pub(super) retention: Option<String>,
    /// When a new file is begun.
    pub(super) rotation: Option<RotationFile>,
}

/// When a new file is begun.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RotationFile {
    /// When a file has this many bytes.
    pub(super) file_bytes: Option<Amount>,
    /// Keep the newest so many files of a capture. All when absent.
    pub(super) files: Option<Amount>,
    /// When a file has been open for so long. Never when absent.
    pub(super) interval: Option<String>,
}

/// What no request exceeds.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CapsFile {
    /// How long a capture may last.
    pub(super) duration: Option<String>,
    /// Bytes of files of one pod's capture.
    pub(super) bytes: Option<Amount>,
    /// Packets of one pod's capture. No cap when absent.
    pub(super) packets: Option<Amount>,
    /// Bytes kept of each packet. No cap when absent.
    pub(super) snap_length: Option<Amount>,
    /// Packets captured per second of one pod. No cap when absent.
    pub(super) packets_per_second: Option<Amount>,
    /// Bytes captured per second of one pod. No cap when absent.
    pub(super) bytes_per_second: Option<Amount>,
    /// Captures at once per namespace.
    pub(super) captures_per_namespace: Option<Amount>,
    /// Captures begun within an hour, per namespace. No cap when absent.
    pub(super) captures_per_hour: Option<Amount>,
    /// Keep headers only, whatever is asked.
    pub(super) headers_only: Option<bool>,
    /// How long files and records are kept after the end.
    pub(super) retention: Option<String>,
}

impl From<CapsFile> for CapsSpec {
    fn from(file: CapsFile) -> Self {
        Self {
            duration: file.duration,
            bytes: file.bytes,
            packets: file.packets,
            snap_length: file.snap_length,
            packets_per_second: file.packets_per_second,
            bytes_per_second: file.bytes_per_second,
            captures: file.captures_per_namespace,
            captures_per_hour: file.captures_per_hour,
            headers_only: file.headers_only.unwrap_or_default(),
            retention: file.retention,
            ..Self::default()
        }
    }
}

/// What the agent says.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogFile {
    /// Auto (Human on a terminal, Json otherwise), Human or Json.
    pub(super) format: Option<LogFormat>,
    /// error, warn, info, debug or trace.
    pub(super) level: Option<LogLevel>,
}
