//! What a CNI does for a pod, in its order: the pair is made inside the pod, its host end moved out and put on the bridge,
//! the pod's end brought up, and only then a result is left in libcni's cache.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::manifest::NAMESPACE;
use crate::pods::{INTERFACE, Pod, Pods, mac_text};
use crate::process::output;
use crate::scratch::Scratch;

/// A result cache of its own.
#[derive(Debug)]
pub struct Cni {
    scratch: Scratch,
}

impl Cni {
    /// An empty one.
    pub fn new(name: &str) -> Result<Self> {
        Ok(Self { scratch: Scratch::new(&format!("{name}-cni"))? })
    }

    /// The lines of the agent's configuration that name it.
    pub fn configuration(&self) -> String {
        format!("cniCacheDirs: [{}]\n", self.scratch.path().display())
    }

    /// A file of the cache.
    pub fn path(&self, file: &str) -> PathBuf {
        self.scratch.path().join(file)
    }

    /// Leaves a result as a file that is made, then written to, as libcni does.
    pub fn write(&self, file: &str, result: &Value) -> Result<()> {
        std::fs::write(self.path(file), result.to_string()).context("writing a CNI result")
    }

    /// Leaves the result of a pod's default interface.
    pub fn done(&self, pod: &Pod) -> Result<()> {
        let netns = format!("/var/run/netns/{}", pod.netns);
        self.write(&format!("pods-{}-{INTERFACE}", pod.name), &result(pod, INTERFACE, &netns))
    }
}

/// What the bridge plugin's result for a pod's interface in that namespace looks like.
pub fn result(pod: &Pod, interface: &str, netns: &str) -> Value {
    json!({
        "kind": "cniCacheV1",
        "containerId": format!("sandbox-of-{}", pod.name),
        "config": "e30=",
        "ifName": interface,
        "networkName": "pods",
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", NAMESPACE],
            ["K8S_POD_NAME", pod.name],
            ["K8S_POD_UID", format!("uid-{}", pod.name)],
        ],
        "capabilityArgs": {},
        "result": {
            "cniVersion": "1.0.0",
            "dns": {},
            "interfaces": [
                {"name": "cni0", "mac": "02:00:00:00:00:01"},
                {"name": pod.host_interface, "mac": "02:00:00:00:00:02"},
                {"name": interface, "mac": mac_text(pod.mac), "sandbox": netns},
            ],
            "ips": [{"address": format!("{}/16", pod.v4), "interface": 2}],
        },
    })
}

/// Connects a pod that has no interface, as the bridge plugin does, and runs a script in it as soon as its interface is
/// up; returns what that printed.
pub fn connect(pods: &Pods, pod: &Pod, script: &str) -> Result<String> {
    let Pod { host_interface: host, v4, v6, .. } = pod;
    let mac = mac_text(pod.mac);
    let host_side = pods.host_side(pod);
    let outside = std::process::id();
    // The pod's part of the work, then the host's, then the pod's again: one shell, so that nothing waits for a start.
    let made = format!(
        "ip link add {INTERFACE} address {mac} type veth peer name {host} netns {outside} && \
         nsenter --net=/proc/{outside}/ns/net sh -ec '{host_side}'\n\
         ip -batch - <<END\n\
         link set {INTERFACE} addrgenmode none up\n\
         addr add {v4}/16 dev {INTERFACE}\n\
         addr add {v6}/64 dev {INTERFACE} nodad\n\
         END\n\
         {script}\n"
    );
    output(pod.command("sh").args(["-ec", &made]))
}
