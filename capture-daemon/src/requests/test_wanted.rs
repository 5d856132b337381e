//! Wanted runs for tests.

use std::collections::BTreeMap;

use capture_api::{Caps, Refusal, RequestKind, Settings};
use jiff::Timestamp;

use crate::pods::Place;
use crate::session::wanted::{Allowance, PodRef, RequestId, RequestRef, RunKey, Wanted};

/// What the PacketCapture of that name asks of the pod of that name, or the pod's label when none is named. All are in
/// one namespace, and their UIDs are their names.
pub(crate) fn wanted(
    pod: &str,
    capture: Option<&str>,
    accepted: Timestamp,
    settings: Result<Settings, Refusal>,
) -> Wanted {
    let (kind, request) = match capture {
        Some(capture) => (RequestKind::PacketCapture, RequestId::PacketCapture(capture.into())),
        None => (RequestKind::Label, RequestId::Label),
    };
    Wanted {
        key: RunKey { namespace: "team-a".into(), request, pod_uid: pod.into() },
        pod: PodRef {
            namespace: "team-a".into(),
            namespace_uid: "team-a".into(),
            name: pod.into(),
            uid: pod.into(),
            labels: BTreeMap::new(),
            addresses: Vec::new(),
            place: Some(Place::Interface(format!("veth-{pod}"))),
        },
        request: RequestRef {
            kind,
            name: capture.map(str::to_owned),
            uid: capture.unwrap_or(pod).into(),
            accepted,
        },
        settings,
        caps: Caps::default(),
        notes: Vec::new(),
        forbidden: None,
        allowance: Allowance { at_once: 4, per_hour: None },
    }
}
