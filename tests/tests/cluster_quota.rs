//! What a namespace may hold on a node, and what becomes of others when it has that much.

use std::time::Duration;

use podtap_tests::cluster::pinger::{Pinger, RATE, missing};
use podtap_tests::cluster::podtap::{AGENT, ATTACHED, CAPTURE};
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, wait};
use podtap_tests::scratch::Scratch;
use podtap_tests::tools::agree;
use serde_json::{Value, json};

const QUOTA: u64 = 8 << 20;
const REACHED: &str = "NamespaceQuotaReached";

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_namespace_that_reaches_its_quota_ends_its_own_captures_and_touches_nobody_elses() {
    let cluster = Cluster::with_podtap().unwrap();
    let _configured = cluster.configure_agents(&format!("quotaPerNamespace: {QUOTA}")).unwrap();
    let neighbour = Pinger::new(&cluster, "thrifty", "node1").unwrap();
    let namespace = Namespace::make(&cluster, "greedy", &[]).unwrap();
    namespace.allow(100).unwrap();
    let pods = namespace.run_all(&["peer", "web"].map(|name| PodManifest::new(name).on("node1"))).unwrap();
    let ask = |name: &str| {
        let spec = json!({"podNames": ["web"], "filter": "icmp", "retention": "45s"});
        let capture = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": name}, "spec": spec,
        });
        namespace.apply(&capture).unwrap();
    };
    ask("greedy");
    namespace.wait_run("web", Some("greedy"), &ATTACHED).unwrap();
    // 24 MB, there and back.
    let ping = format!("ping -c 200 -i 0.01 -s 60000 {} >/dev/null", pods[0].address);
    namespace.exec("web", &["sh", "-c", &ping]).unwrap();

    let record = namespace.wait_run("web", Some("greedy"), &["Failed"]).unwrap();
    assert_eq!(record["status"]["reason"], REACHED, "{record:#}");
    let message = record["status"]["message"].as_str().unwrap();
    assert!(message.contains("of this namespace") && message.contains("retention"), "{message}");
    let files = record["status"]["files"].as_array().unwrap();
    let bytes: u64 = files.iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
    // The runs' descriptions count, too.
    assert!((QUOTA - (1 << 20)..=QUOTA + (1 << 18)).contains(&bytes), "{bytes}");
    let scratch = Scratch::new("quota").unwrap();
    for file in cluster.fetch(&record, &scratch).unwrap() {
        agree(&file).unwrap();
    }
    // What is asked for now is told the same.
    ask("again");
    let again = namespace.wait_run("web", Some("again"), &["Failed"]).unwrap();
    assert_eq!(again["status"]["reason"], REACHED, "{again:#}");

    // Others on the same node go on, and begin.
    neighbour.namespace.kubectl(&["label", "pod", "peer", &format!("{CAPTURE}=true")]).unwrap();
    neighbour.namespace.wait_run("peer", None, &ATTACHED).unwrap();
    let packets = |record: &Value| record["status"]["packets"].as_u64().unwrap_or_default();
    let before = packets(&neighbour.record("to be there", |_| true).unwrap());
    neighbour.record("to go on", |record| packets(record) > before + RATE).unwrap();
    let numbers = neighbour.end().unwrap();
    assert!(numbers.len() == 1 && missing(&numbers[0]) == 0, "{} files", numbers.len());

    // There is room again when retention has ended.
    let name = record["metadata"]["name"].clone();
    wait("the files and the record to go", AGENT + Duration::from_secs(45), || {
        Ok(namespace.records()?.iter().all(|record| record["metadata"]["name"] != name).then_some(()))
    })
    .unwrap();
    ask("later");
    namespace.wait_run("web", Some("later"), &ATTACHED).unwrap();
}
