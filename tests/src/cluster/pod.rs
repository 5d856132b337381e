//! Pods for tests.

use std::net::IpAddr;

use serde_json::{Value, json};

/// An image with busybox: a shell, `nc`, `httpd`, `ping`, `tar`, but no working `wget`.
pub const BUSYBOX: &str = "podtap-test/busybox:dev";

/// The same with `podtap-traffic`, the sender and receiver of numbered packets.
pub const TRAFFIC: &str = "podtap-test/traffic:dev";

/// A pod to be made: it sleeps, unless told otherwise.
#[derive(Clone, Debug)]
pub struct PodManifest {
    json: Value,
}

impl PodManifest {
    /// A pod of that name with one container that sleeps.
    pub fn new(name: &str) -> Self {
        Self {
            json: json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "labels": {}, "annotations": {}},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{"name": "main", "image": BUSYBOX, "command": ["sleep", "infinity"]}],
                },
            }),
        }
    }

    /// On that node, past the scheduler's choice.
    pub fn on(mut self, node: &str) -> Self {
        self.json["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
        self
    }

    /// With that image.
    pub fn image(mut self, image: &str) -> Self {
        self.json["spec"]["containers"][0]["image"] = json!(image);
        self
    }

    /// Running that instead of sleeping.
    pub fn command(mut self, words: &[&str]) -> Self {
        self.json["spec"]["containers"][0]["command"] = json!(words);
        self
    }

    /// Running that text of a shell instead of sleeping.
    pub fn shell(self, script: &str) -> Self {
        self.command(&["sh", "-c", script])
    }

    /// With a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.json["metadata"]["labels"][key] = json!(value);
        self
    }

    /// With an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.json["metadata"]["annotations"][key] = json!(value);
        self
    }

    /// On its node's own network.
    pub fn host_network(mut self) -> Self {
        self.json["spec"]["hostNetwork"] = json!(true);
        self
    }

    /// With anything else changed in its manifest.
    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Self {
        change(&mut self.json);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.json["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// The manifest.
    pub fn manifest(&self) -> Value {
        self.json.clone()
    }
}

/// A pod that runs.
#[derive(Clone, Debug)]
pub struct RunningPod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node it is on.
    pub node: String,
    /// Its address; the node's for one on the node's network.
    pub address: IpAddr,
    /// All its addresses.
    pub addresses: Vec<IpAddr>,
}

impl RunningPod {
    /// From a pod as the API server has it; none while it has no address.
    pub fn from_json(pod: &Value) -> Option<Self> {
        let text = |pointer: &str| pod.pointer(pointer)?.as_str().map(str::to_owned);
        let addresses = pod.pointer("/status/podIPs")?.as_array()?.iter();
        Some(Self {
            name: text("/metadata/name")?,
            uid: text("/metadata/uid")?,
            node: text("/spec/nodeName")?,
            address: text("/status/podIP")?.parse().ok()?,
            addresses: addresses.filter_map(|one| one["ip"].as_str()?.parse().ok()).collect(),
        })
    }
}
