//! Where the cluster is: its directory, its addresses, and the names of what it has on this machine while it is up.

use std::path::PathBuf;

use crate::workspace::target;

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    /// Its name in the cluster.
    pub(super) name: &'static str,
    /// Its own network namespace; the host's when there is none.
    pub(super) netns: Option<&'static str>,
    /// Its address.
    pub(super) address: &'static str,
    /// The bridge of its pods.
    pub(super) bridge: &'static str,
    /// That bridge's hardware address: without one of its own it would take over a pod's, another one from time to time.
    pub(super) bridge_mac: &'static str,
    /// Its pods' addresses, and the bridge's own.
    pub(super) pods: Subnet,
    /// The same in IPv6. Routed within a node only: forwarding it through the host would change how the host itself
    /// comes by its addresses.
    pub(super) pods6: Subnet,
}

/// Addresses of the pods of a node.
#[derive(Debug)]
pub(crate) struct Subnet {
    /// As `ADDRESS/LENGTH`.
    pub(super) network: &'static str,
    /// The bridge's address in it.
    pub(super) gateway: &'static str,
    /// Bits of the network.
    pub(super) length: u8,
}

/// node1 is on the host's network, node2 in a namespace behind a veth.
pub(super) static NODES: [Node; 2] = [
    Node {
        name: "node1",
        netns: None,
        address: HOST,
        bridge: "podtap1",
        bridge_mac: "0a:70:74:61:70:01",
        pods: Subnet { network: "10.213.16.0/20", gateway: "10.213.16.1", length: 20 },
        pods6: Subnet { network: "fd70:7464:6170:1::/64", gateway: "fd70:7464:6170:1::1", length: 64 },
    },
    Node {
        name: "node2",
        netns: Some(NETNS),
        address: "10.213.0.2",
        bridge: "podtap2",
        bridge_mac: "0a:70:74:61:70:02",
        pods: Subnet { network: "10.213.32.0/20", gateway: "10.213.32.1", length: 20 },
        pods6: Subnet { network: "fd70:7464:6170:2::/64", gateway: "fd70:7464:6170:2::1", length: 64 },
    },
];

/// Network namespace of node2, for `ip -n`.
pub(super) const NETNS: &str = "podtap-node2";
/// The host's end of the veth to node2.
pub(super) const WIRE: &str = "podtap-n2";
/// The host's address on that veth: node1's.
pub(super) const HOST: &str = "10.213.0.1";
/// All of the cluster's addresses.
pub(super) const NETWORK: &str = "10.213.0.0/16";
/// The services' addresses. There is no service proxy: the only one that answers is the first, the API server's.
pub(super) const SERVICES: &str = "10.213.128.0/20";
/// The address of the service `kubernetes`. The API server itself listens there, so nothing has to be translated.
pub(super) const API: &str = "10.213.128.1";
/// Where a name server would be. There is none; asking it fails at once.
pub(super) const DNS: &str = "10.213.128.10";
/// Where etcd listens, on the loopback.
pub(super) const ETCD: &str = "http://127.0.0.1:23790";
/// Where etcd would talk to others of its kind.
pub(super) const ETCD_PEER: &str = "http://127.0.0.1:23800";

/// The cluster's directory.
pub(super) fn home() -> PathBuf {
    target().join("cluster")
}

/// Kubernetes' programs; stays when the cluster goes.
pub(super) fn bin() -> PathBuf {
    home().join("bin")
}

/// One of Kubernetes' programs.
pub(super) fn program(name: &str) -> PathBuf {
    bin().join(name)
}

/// What each program said; stays until the next cluster.
pub(super) fn logs() -> PathBuf {
    home().join("logs")
}

/// Keys and certificates.
pub(super) fn pki() -> PathBuf {
    home().join("pki")
}

/// The administrator's configuration of kubectl.
pub(super) fn kubeconfig() -> PathBuf {
    home().join("kubeconfig")
}

/// What kubectl remembers of the API server.
pub(super) fn cache() -> PathBuf {
    home().join("cache")
}

/// Exists while the cluster is whole.
pub(super) fn marker() -> PathBuf {
    home().join("complete")
}
