//! Metrics of podtap on the cluster, asked for through the API server as a monitoring in the cluster would.

use podtap_tests::cluster::podtap::ATTACHED;
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, SOON, wait};
use serde_json::{Value, json};

/// Echo requests, each with its reply.
const PINGS: u64 = 20;

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_running_captures_counters_are_those_of_its_record() {
    let cluster = Cluster::with_podtap().unwrap();
    let node = cluster.nodes().unwrap().remove(0);
    let namespace = Namespace::make(&cluster, "metrics", &[]).unwrap();
    namespace.allow(10).unwrap();
    let pods = namespace.run_all(&["web", "peer"].map(|name| PodManifest::new(name).on(&node))).unwrap();
    namespace
        .apply(&json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": "c"},
            "spec": {"podNames": ["web"], "filter": "icmp"},
        }))
        .unwrap();
    namespace.wait_run("web", Some("c"), &ATTACHED).unwrap();
    let peer = pods[1].address.to_string();
    namespace.exec("web", &["ping", "-c", &PINGS.to_string(), "-i", "0.05", &peer]).unwrap();

    // The record is written each ten seconds, the metrics are as of the last one.
    let of_record = |record: &Value| -> Vec<u64> {
        let status = &record["status"];
        let ways = ["fromPod", "toPod"].into_iter().flat_map(|way| {
            ["seen", "matched", "captured", "bytes"].map(|field| status[way][field].as_u64())
        });
        let drops = ["ring", "rate", "storage"].map(|cause| status["drops"][cause].as_u64());
        let rest = [status["packets"].as_u64(), Some(1)];
        ways.chain(drops).chain(rest).map(Option::unwrap_or_default).collect()
    };
    let of_metrics = || -> anyhow::Result<Vec<u64>> {
        let metrics = cluster.agent_metrics(&node)?;
        let of =
            |name: &str, label: (&str, &str)| metrics.count(name, &[("namespace", namespace.name()), label]);
        let ways = ["FromPod", "ToPod"].into_iter().flat_map(|way| {
            ["packets_seen", "packets_matched", "packets_captured", "captured_bytes"]
                .map(|name| (format!("podtap_{name}_total"), ("direction", way)))
        });
        let drops = ["ring", "rate", "storage"]
            .map(|cause| ("podtap_packets_dropped_total".to_owned(), ("cause", cause)));
        let all = ways.chain(drops).map(|(name, label)| of(&name, label));
        let own = ("namespace", namespace.name());
        let rest = [of("podtap_packets_written_total", own), of("podtap_runs", ("state", "Capturing"))];
        all.chain(rest).collect()
    };
    let (record, metrics) = wait("record and metrics to agree", SOON, || {
        let record = namespace.wait_run("web", Some("c"), &["Capturing"])?;
        let metrics = of_metrics()?;
        anyhow::ensure!(of_record(&record) == metrics, "{:?} and {metrics:?}", of_record(&record));
        Ok((record["status"]["packets"] == 2 * PINGS).then_some((record, metrics)))
    })
    .unwrap();
    let status = &record["status"];
    for way in ["fromPod", "toPod"] {
        assert_eq!((&status[way]["matched"], &status[way]["captured"]), (&json!(PINGS), &json!(PINGS)));
    }
    assert_eq!(metrics.len(), 13);
    let agent = cluster.agent_metrics(&node).unwrap();
    assert!(agent.count("podtap_taps_attached", &[]).unwrap() >= 1);
    assert!(agent.count("podtap_api_writes_total", &[("object", "PodCapture")]).unwrap() >= 2);
    for resource in ["pods", "packetcaptures", "capturepolicies", "namespaces"] {
        assert!(agent.count("podtap_api_lists_total", &[("resource", resource)]).unwrap() >= 1);
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn one_gateway_leads_and_counts_what_there_is() {
    let cluster = Cluster::with_podtap().unwrap();
    let node = cluster.nodes().unwrap().remove(0);
    let namespace = Namespace::make(&cluster, "metrics", &[]).unwrap();
    namespace.allow(10).unwrap();
    namespace.run(&PodManifest::new("web").on(&node).label("podtap.dev/capture", "true")).unwrap();
    let capture = json!({
        "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": "c"},
        "spec": {"podNames": ["web"]},
    });
    namespace.apply(&capture).unwrap();
    let rollout = ["-n", "podtap-gateway", "rollout", "status", "deployment/podtap-gateway", "--timeout=80s"];
    cluster.kubectl_within(SOON, &rollout).unwrap();
    let select = ["pods", "-n", "podtap-gateway", "-l", "app.kubernetes.io/name=podtap-gateway"];
    let leader = wait("one gateway to lead, and to know the capture and all records", SOON, || {
        let pods = cluster.get_json(&select)?;
        let mut leaders = Vec::new();
        for pod in pods["items"].as_array().into_iter().flatten() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            let metrics = cluster.metrics("podtap-gateway", name, 9472)?;
            if metrics.count("podtap_gateway_leader", &[])? == 1 {
                leaders.push(metrics);
            }
        }
        anyhow::ensure!(leaders.len() == 1, "{} lead", leaders.len());
        let leader = leaders.remove(0);
        let capturing = leader.count("podtap_gateway_captures", &[("state", "capturing")])?;
        // The label's and the capture's at least; those of tests before may be going, here and there not in one moment.
        let listed = cluster.get_json(&["podcaptures", "-A"])?["items"].as_array().map_or(0, Vec::len) as u64;
        let known = leader.count("podtap_gateway_records", &[])?;
        anyhow::ensure!(known == listed, "{known} records known, {listed} listed");
        // Told when the status has been written.
        let written = leader.count("podtap_gateway_writes_total", &[("kind", "state")])?;
        Ok((capturing >= 1 && known >= 2 && written >= 1).then_some(leader))
    })
    .unwrap();
    for resource in ["packetcaptures", "podcaptures", "capturepolicies", "namespaces", "nodes"] {
        assert_eq!(
            leader.count("podtap_gateway_watch_up", &[("resource", resource)]).unwrap(),
            1,
            "{resource}"
        );
    }
}
