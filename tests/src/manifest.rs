//! Manifests: the objects a user would apply, as JSON, which is YAML too.

use serde_json::{Value, json};

use crate::pods::Pod;

/// The namespace of manifests that do not say otherwise.
pub const NAMESPACE: &str = "default";

/// A Pod on its interface, with no label.
pub fn pod(pod: &Pod) -> Value {
    pod_on(&pod.name, &pod.host_interface)
}

/// A Pod of that name on that host interface.
pub fn pod_on(name: &str, host_interface: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": format!("uid-{name}"),
            "labels": {},
            "annotations": {"podtap.dev/interface": host_interface},
        },
    })
}

/// A Pod as Kubernetes tells of it: nothing says where its packets pass.
pub fn pod_somewhere(one: &Pod) -> Value {
    let mut pod = pod(one);
    pod["metadata"]["annotations"] = json!({});
    pod
}

/// A Pod that asks for its capture by label, with annotations such as `("filter", "tcp")`.
pub fn labelled(one: &Pod, annotations: &[(&str, &str)]) -> Value {
    annotate(label(pod(one), "podtap.dev/capture", "true"), annotations)
}

/// The same Pod with one more label.
pub fn label(mut pod: Value, key: &str, value: &str) -> Value {
    pod["metadata"]["labels"][key] = json!(value);
    pod
}

/// The same Pod with more of podtap's annotations.
pub fn annotate(mut pod: Value, annotations: &[(&str, &str)]) -> Value {
    for (key, value) in annotations {
        pod["metadata"]["annotations"][format!("podtap.dev/{key}")] = json!(value);
    }
    pod
}

/// A PacketCapture with that `spec`.
pub fn packet_capture(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "podtap.dev/v1alpha1",
        "kind": "PacketCapture",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": format!("uid-{name}")},
        "spec": spec,
    })
}
