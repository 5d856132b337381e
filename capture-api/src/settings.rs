//! The settings that a run works with, after defaults and caps.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{DesiredState, Direction, GoDuration};

/// The most bytes of one packet that reach a file: the largest IP packet (65,535), its Ethernet header (14) and a
/// VLAN tag (4), rounded up to 4.
pub const MAX_SNAP_LENGTH: u32 = 65_556;

/// The effective settings of a run: complete, checked, clipped to the caps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Settings {
    /// pcap-filter(7) expression; empty accepts every packet.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// Which way packets go, seen from the pod.
    pub direction: Direction,
    /// The interface's name inside the pod; the default interface when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Bytes kept of each packet, 1 to 65556.
    pub snap_length: u32,
    /// Keep link, network and transport headers only.
    pub headers_only: bool,
    /// Keep one packet in this many; 1 keeps all.
    pub sample: u32,
    /// The most that is captured per second.
    #[serde(default, rename = "rateLimit")]
    pub rate: Rate,
    /// Where the run ends.
    pub limits: Limits,
    /// When a new file is begun.
    pub rotation: Rotation,
    /// When to begin; when accepted if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When to end.
    #[serde(flatten)]
    #[schemars(with = "WindowFields")]
    pub window: Window,
    /// What the run should do now.
    pub state: DesiredState,
    /// How long files and record are kept after the end.
    pub retention: GoDuration,
    /// Where finished files go.
    #[serde(default, skip_serializing_if = "Output::is_local")]
    pub output: Output,
}

impl Settings {
    /// Start and end of the window of a request that was accepted at `accepted`. The end is never before the start.
    #[must_use]
    pub fn window(&self, accepted: Timestamp) -> (Timestamp, Timestamp) {
        let start = self.start_time.unwrap_or(accepted);
        let end = match self.window {
            Window::Duration(GoDuration(duration)) => later(start, duration),
            Window::EndTime(end) => end.max(start),
        };
        (start, end)
    }

    /// The start that is named, while it is still to come. Without one a capture begins at once, also where the clock is
    /// behind the one that says when it was accepted.
    #[must_use]
    pub fn begins_later(&self, now: Timestamp) -> Option<Timestamp> {
        self.start_time.filter(|start| now < *start)
    }
}

/// `from` plus `duration`, or the last moment that can be told.
pub(crate) fn later(from: Timestamp, duration: Duration) -> Timestamp {
    SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| from.checked_add(duration).ok())
        .unwrap_or(Timestamp::MAX)
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Window {
    /// So long after its start.
    Duration(GoDuration),
    /// At this moment.
    EndTime(Timestamp),
}

/// How [`Window`] is written: one of the two.
#[derive(JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "gives the schema only")]
struct WindowFields {
    /// How long, from the start on.
    duration: Option<GoDuration>,
    /// When to end.
    end_time: Option<Timestamp>,
}

/// The most that is captured per second; absent is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// Packets per second, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<u64>,
    /// Wire bytes per second, at least 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
}

/// Where a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// After this many packets, at least 1; absent is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Before its files grow beyond this many bytes, as written.
    pub bytes: u64,
}

/// When a new file is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rotation {
    /// When a file has this many bytes; at least 131072.
    pub file_bytes: u64,
    /// Keep the newest so many files, at least 1; absent keeps all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<u32>,
    /// When a file has been open for so long, at least one second; absent is never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GoDuration>,
}

/// Where finished files go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// A destination that an admin defined; absent keeps the files on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<String>,
}

impl Output {
    /// Whether the files stay on the node.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.object_store.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{Caps, Defaults, from_annotations};

    #[test]
    fn a_node_whose_clock_is_behind_waits_only_for_a_start_that_is_named() {
        let accepted: Timestamp = "2026-12-01T10:00:05Z".parse().unwrap();
        let behind = "2026-12-01T10:00:00Z".parse().unwrap();
        let (mut settings, _) =
            from_annotations(&BTreeMap::new(), accepted, &Defaults::default(), &Caps::default()).unwrap();
        assert!(settings.window(accepted).0 > behind);
        assert_eq!(settings.begins_later(behind), None);
        settings.start_time = Some(accepted);
        assert_eq!(settings.begins_later(behind), Some(accepted));
        assert_eq!(settings.begins_later(accepted), None);
    }
}
