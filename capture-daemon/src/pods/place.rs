//! What a request says about where a pod is.

use std::{net::IpAddr, path::PathBuf};

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// By the name of the host's end of its veth pair (annotation `podtap.dev/interface`).
    Interface(String),
    /// By the file of its network namespace (annotation `podtap.dev/netns`).
    Netns(PathBuf),
    /// By what Kubernetes says of it: the interface is found.
    Pod(PodPlace),
}

/// A pod of this node as Kubernetes knows it. Pods in the host's network have no such place.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodPlace {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// What container runtimes call the pod by: its UID, and for a static pod the annotation
    /// `kubernetes.io/config.hash`.
    pub sandbox_uids: Vec<String>,
    /// `status.podIPs`. Empty once the pod is being deleted or has ended: its addresses may be another's then.
    pub addresses: Vec<IpAddr>,
    /// The interface's name inside the pod; the default interface when there is none.
    pub interface: Option<String>,
}
