//! What sessions are asked for: whole runs, whoever asked for them and how.

use std::{collections::BTreeMap, net::IpAddr};

use capture_api::{Caps, Refusal, RequestKind, Settings};
use jiff::Timestamp;

use crate::pods::Place;

/// Which run: one request on one pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// The namespace of both.
    pub namespace: String,
    /// The request.
    pub request: RequestId,
    /// The pod. One of the same name made later has another UID.
    pub pod_uid: String,
}

/// A request's identity within a namespace and a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RequestId {
    /// The pod's own label.
    Label,
    /// The PacketCapture of this UID.
    PacketCapture(String),
}

/// A run that is wanted: everything that a session needs to know of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which run.
    pub key: RunKey,
    /// The pod.
    pub pod: PodRef,
    /// The request.
    pub request: RequestRef,
    /// The settings in force, or why there are none. A run that has others already goes on with them, within `caps`.
    pub settings: Result<Settings, Refusal>,
    /// What no settings may exceed now.
    pub caps: Caps,
    /// What was clipped or not taken over, one sentence each.
    pub notes: Vec<String>,
    /// Why there may be no capture now, whatever the settings say: a run that captures ends and keeps its files, one
    /// that has not begun is refused and begins when this goes away.
    pub forbidden: Option<Refusal>,
    /// How many runs its namespace may have.
    pub allowance: Allowance,
}

/// How many runs one namespace may have on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// At the same time.
    pub at_once: u32,
    /// Begun within an hour; none is no limit.
    pub per_hour: Option<u32>,
}

/// A pod of this node. Its names have been checked: they are safe as parts of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// The namespace's UID; empty where there is no Kubernetes.
    pub namespace_uid: String,
    /// Name.
    pub name: String,
    /// UID, derived from the names where the manifest has none.
    pub uid: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses, where the pod's status tells them.
    pub addresses: Vec<IpAddr>,
    /// Where its traffic passes; none when the manifest does not say, and then the settings are a refusal.
    pub place: Option<Place>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRef {
    /// Label or object.
    pub kind: RequestKind,
    /// The PacketCapture's name; none for a label.
    pub name: Option<String>,
    /// The PacketCapture's UID; the pod's for a label.
    pub uid: String,
    /// When the request was accepted: its window starts here unless it names a start. The same for all pods of a
    /// PacketCapture.
    pub accepted: Timestamp,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEvent {
    /// New, or changed.
    Wanted(Box<Wanted>),
    /// Not wanted any more: its label, object or pod is gone.
    Gone(RunKey),
    /// All that was there at the start has been told: a run that was not named is not wanted any more.
    Listed,
}
