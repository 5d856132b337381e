//! Who may do what on a cluster: roles, and what admission adds to them. Each refusal must say what to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod agents;
mod people;
mod pods;

use std::sync::OnceLock;

use podtap_tests::cluster::{SOON, wait};
use podtap_tests::kubectl::Kubectl;
use serde_json::{Value, json};

const CREATE: [&str; 4] = ["create", "--dry-run=server", "-f", "-"];
const GATEWAY: &str = "system:serviceaccount:podtap-gateway:podtap-gateway";

/// The cluster with podtap's definitions, roles and policies in force.
fn admin() -> Kubectl {
    static READY: OnceLock<()> = OnceLock::new();
    let kubectl = Kubectl::admin().unwrap();
    READY.get_or_init(|| {
        let overlay = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/default");
        kubectl.run(&["apply", "-k", overlay]).unwrap();
        // The API server takes up a new policy after a moment.
        let stranger = Kubectl::person("stranger", &["system:masters"]).unwrap();
        let stranger_record = record("default", "r", "node1");
        wait("the admission policies", SOON, || stranger.refused(&CREATE, &stranger_record).map(Some))
            .unwrap();
    });
    kubectl
}

fn record(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "podtap.dev/v1alpha1", "kind": "PodCapture",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"pod": "web", "podUID": "u", "namespaceUID": "n", "request": "Label", "node": node},
    })
}

fn nodes(kubectl: &Kubectl) -> Vec<String> {
    kubectl.cluster.nodes().unwrap()
}
