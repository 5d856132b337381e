//! Label and annotation keys.

/// What all keys of podtap start with.
pub const PREFIX: &str = "podtap.dev/";

/// Pod label: `"true"` captures the pod.
pub const CAPTURE: &str = "podtap.dev/capture";

/// Pod annotation: the filter, in pcap-filter(7) syntax.
pub const FILTER: &str = "podtap.dev/filter";
/// Pod annotation: how long, such as `10m`.
pub const DURATION: &str = "podtap.dev/duration";
/// Pod annotation: bytes kept of each packet.
pub const SNAP_LENGTH: &str = "podtap.dev/snap-length";
/// Pod annotation: stop after this many packets.
pub const MAX_PACKETS: &str = "podtap.dev/max-packets";
/// Pod annotation: stop after this many bytes, as written to the files.
pub const MAX_BYTES: &str = "podtap.dev/max-bytes";

/// Pod annotation of the manifest directory only: the host's end of the pod's interface.
pub const INTERFACE: &str = "podtap.dev/interface";
/// Pod annotation of the manifest directory only: path of the pod's network namespace.
pub const NETNS: &str = "podtap.dev/netns";

/// The pod annotations that refine a capture by label.
pub const SETTINGS: [&str; 5] = [FILTER, DURATION, SNAP_LENGTH, MAX_PACKETS, MAX_BYTES];
/// The pod annotations that say where a pod's traffic passes; refused on Kubernetes.
pub const PLACES: [&str; 2] = [INTERFACE, NETNS];

/// Namespace label that the shipped default policy selects.
pub const ALLOW: &str = "podtap.dev/allow";

/// Record label: the pod's name, where it fits a label.
pub const RECORD_POD: &str = "podtap.dev/pod";
/// Record label: the PacketCapture's name, where it fits a label.
pub const RECORD_CAPTURE: &str = "podtap.dev/capture-name";
/// Record label: the node's name, where it fits a label.
pub const RECORD_NODE: &str = "podtap.dev/node";
/// Record label: who asked, `Label` or `PacketCapture`.
pub const RECORD_REQUEST: &str = "podtap.dev/request";
