//! One PacketCapture, many nodes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use podtap_tests::cluster::{Cluster, Namespace, wait};
use podtap_tests::fake::{Bulk, FakeRun};
use podtap_tests::gateway::{Gateway, Gateways};
use podtap_tests::memory;
use serde_json::{Value, json};

use crate::mebibytes;

/// The most bytes of an object.
const LARGEST: usize = 16 << 10;
/// How long anything may take with all nodes taking part.
const PATIENCE: Duration = Duration::from_secs(300);
const NAMESPACE: &str = "podtap-scale";
const CAPTURE: &str = "everywhere";

/// `status`
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Nodes that take part, with one run each.
    #[arg(long, value_name = "NUMBER", default_value = "5000")]
    nodes: usize,

    /// Requests under way at once while records are written.
    #[arg(long, value_name = "NUMBER", default_value = "16")]
    at_once: usize,
}

impl Status {
    pub(crate) fn run(&self) -> Result<()> {
        let cluster = Cluster::get()?;
        let gateways = Gateways::instead_of_deployed(&cluster)?;
        let namespace =
            Namespace::named(&cluster, NAMESPACE, &[("podtap.dev/allow", "true"), ("podtap-scale", "true")])?;
        let policy = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "CapturePolicy", "metadata": {"name": NAMESPACE},
            "spec": {"namespaceSelector": {"matchLabels": {"podtap-scale": "true"}}},
        });
        cluster.apply(&policy)?;
        let done = self.measure(&cluster, &namespace, &gateways);
        cluster.kubectl(&["delete", "capturepolicy", NAMESPACE, "--ignore-not-found"])?;
        done
    }

    fn measure(&self, cluster: &Cluster, namespace: &Namespace<'_>, gateways: &Gateways<'_>) -> Result<()> {
        let gateway = gateways.start("scale", &["--node-gone-after", "24h"])?;
        wait("the gateway to lead", PATIENCE, || Ok(gateway.leads()?.then_some(())))?;
        println!("gateway, nothing to do: {}", mebibytes(memory::of(gateway.process.id())?.own));

        namespace.apply(&json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": CAPTURE},
            "spec": {"podNames": ["nobody"], "duration": "10m"},
        }))?;
        let capture = namespace.get_json(&["packetcapture", CAPTURE])?;
        let uid = capture["metadata"]["uid"].as_str().context("no UID")?.to_owned();
        let runs: Vec<FakeRun> = (0..self.nodes)
            .map(|number| FakeRun {
                namespace: NAMESPACE.to_owned(),
                capture: CAPTURE.to_owned(),
                request_uid: uid.clone(),
                pod: format!("pod-{number}"),
                node: format!("podtap-fake-{number}"),
                retention: "24h".to_owned(),
            })
            .collect();

        let bulk = Bulk::new(cluster)?;
        let mut phase = Phase { nodes: self.nodes, namespace, gateway: &gateway, writes: gateway.writes()? };
        let many = self.nodes as u64;
        let took = bulk.run(runs.iter().map(FakeRun::create), self.at_once)?;
        phase.wait("records made", took, |status| status["pods"] == many)?;
        for packets in [10, 20] {
            let took = bulk.run(runs.iter().map(|run| run.status("Capturing", packets)), self.at_once)?;
            let told = |status: &Value| status["capturing"] == many && status["packets"] == packets * many;
            phase.wait("records changed", took, told)?;
        }
        let sizes = largest(&bulk)?;
        namespace.kubectl(&[
            "patch",
            "packetcapture",
            CAPTURE,
            "--type=merge",
            "-p",
            r#"{"spec":{"state":"Stopped"}}"#,
        ])?;
        let took = bulk.run(runs.iter().map(|run| run.status("Stopped", 30)), self.at_once)?;
        phase.wait("records ended", took, |status| {
            status["finished"] == many && status["packets"] == 30 * many
        })?;
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        let words = ["wait", "--for=condition=Completed", "packetcapture", CAPTURE, "-n", NAMESPACE, &limit];
        cluster.kubectl_within(PATIENCE, &words)?;
        let after = largest(&bulk)?;

        println!("gateway, {} records: {}", self.nodes, mebibytes(memory::of(gateway.process.id())?.own));
        for ((objects, during), (_, after)) in sizes.iter().zip(&after) {
            println!(
                "largest of {objects}: {during} bytes while capturing, {after} bytes at the end (at most {LARGEST})"
            );
        }
        let over = sizes.iter().chain(&after).any(|(_, size)| *size > LARGEST);
        ensure!(!over, "an object is larger than {LARGEST} bytes");
        Ok(())
    }
}

/// One wave of changes, and what it cost.
struct Phase<'a> {
    nodes: usize,
    namespace: &'a Namespace<'a>,
    gateway: &'a Gateway,
    /// Writes of the gateway before.
    writes: u64,
}

impl Phase<'_> {
    /// Waits until the status tells it.
    fn wait(&mut self, what: &str, took: Duration, told: impl Fn(&Value) -> bool) -> Result<()> {
        let begun = Instant::now();
        wait("the status to tell it", PATIENCE, || {
            let capture = self.namespace.get_json(&["packetcapture", CAPTURE])?;
            Ok(told(&capture["status"]).then_some(()))
        })
        .with_context(|| self.gateway.log())?;
        let writes = self.gateway.writes()?;
        println!(
            "{} {what} in {:.1} s ({:.0}/s); told {:.1} s later, with {} writes of the gateway",
            self.nodes,
            took.as_secs_f64(),
            self.nodes as f64 / took.as_secs_f64(),
            begun.elapsed().as_secs_f64(),
            writes - self.writes,
        );
        self.writes = writes;
        Ok(())
    }
}

/// Bytes of the largest object of each kind, as the API server sends it.
fn largest(bulk: &Bulk) -> Result<Vec<(&'static str, usize)>> {
    ["packetcaptures", "podcaptures"]
        .into_iter()
        .map(|objects| {
            let list = bulk.get(&format!("/apis/podtap.dev/v1alpha1/namespaces/{NAMESPACE}/{objects}"))?;
            let items = list["items"].as_array().context("no list")?;
            Ok((objects, items.iter().map(|object| object.to_string().len()).max().unwrap_or_default()))
        })
        .collect()
}
