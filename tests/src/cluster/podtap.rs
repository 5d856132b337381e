//! podtap on the cluster: installed, asked for captures, and its files fetched, as a user and an admin do it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, Namespace, SOON, wait};
use crate::metrics::Metrics;
use crate::scratch::Scratch;

/// The label that asks for a capture.
pub const CAPTURE: &str = "podtap.dev/capture";
/// States of a run whose tap is attached.
pub const ATTACHED: [&str; 2] = ["WaitingForTraffic", "Capturing"];
/// How long what an agent does may take on a busy machine.
pub const AGENT: Duration = Duration::from_secs(30);

impl Cluster {
    /// The cluster with podtap on it, as `kubectl apply -k deploy/overlays/default` leaves it, and every agent ready.
    pub fn with_podtap() -> Result<Self> {
        let cluster = Self::get()?;
        let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/overlays/default");
        cluster.kubectl(&["apply".as_ref(), "-k".as_ref(), overlay.as_os_str()])?;
        cluster.wait_agents()?;
        Ok(cluster)
    }

    /// The same for tests that stop its parts or look into its nodes: none when it is not [our own](Self::is_own).
    pub fn own_with_podtap() -> Result<Option<Self>> {
        Self::own()?.map(|_| Self::with_podtap()).transpose()
    }

    /// Waits until every node's agent is ready, in the version that was asked for last.
    pub fn wait_agents(&self) -> Result<()> {
        let rollout =
            ["-n", "podtap-system", "rollout", "status", "daemonset/podtap-agent", "--timeout=110s"];
        self.kubectl_within(Duration::from_secs(120), &rollout).map(drop)
    }

    /// Has agents start anew with these lines more in their configuration, until what is returned is dropped.
    pub fn configure_agents(&self, lines: &str) -> Result<Configured<'_>> {
        let map = self.get_json(&["-n", "podtap-system", "configmap", "podtap-agent"])?;
        let config = map["data"]["agent.yaml"].as_str().context("no configuration")?;
        let config = format!("{}\n{}\n", config.trim_end(), lines.trim_end());
        let patch = json!({"data": {"agent.yaml": config}}).to_string();
        let configured = Configured(self);
        let words =
            ["-n", "podtap-system", "patch", "configmap", "podtap-agent", "--type=merge", "-p", &patch];
        self.kubectl(&words)?;
        self.restart_agents()?;
        Ok(configured)
    }

    /// Restarts agents until each has the configuration of now: a kubelet mounts what it last heard of, and may not have
    /// heard of the newest since the API server was away.
    fn restart_agents(&self) -> Result<()> {
        wait("agents to have the configuration that was written last", 2 * SOON, || {
            self.kubectl(&["-n", "podtap-system", "rollout", "restart", "daemonset/podtap-agent"])?;
            self.wait_agents()?;
            let map = self.get_json(&["-n", "podtap-system", "configmap", "podtap-agent"])?;
            let wanted = map["data"]["agent.yaml"].as_str().context("no configuration")?;
            for node in self.nodes()? {
                let agent = self.agent(&node)?["metadata"]["name"].as_str().context("no name")?.to_owned();
                let tar = ["tar", "--create", "--dereference", "--file=-", "/etc/podtap/agent.yaml"];
                let packed =
                    self.kubectl(&[&["-n", "podtap-system", "exec", &agent, "--"][..], &tar].concat())?;
                // A header of 512 bytes, the file, and zeros.
                let file = packed.get(512..).and_then(|rest| rest.split('\0').next());
                ensure!(file == Some(wanted), "that of {node} is {file:?}");
            }
            Ok(Some(()))
        })
    }

    /// The agent's pod on a node, as the API server knows it.
    pub fn agent(&self, node: &str) -> Result<Value> {
        let on_node = format!("spec.nodeName={node}");
        let agents = ["pods", "-n", "podtap-system", "-l", "app.kubernetes.io/name=podtap-agent"];
        let list = self.get_json(&[&agents[..], &["--field-selector", &on_node]].concat())?;
        let living = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        list["items"].as_array().context("no list")?.iter().find(living).cloned().context("no agent there")
    }

    /// What the agent of a node tells of itself.
    pub fn agent_metrics(&self, node: &str) -> Result<Metrics> {
        let agent = self.agent(node)?;
        self.metrics("podtap-system", agent["metadata"]["name"].as_str().context("no name")?, 9471)
    }

    /// The metrics that a pod serves at a port, asked for through the API server.
    pub fn metrics(&self, namespace: &str, pod: &str, port: u16) -> Result<Metrics> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
        Metrics::parse(&self.kubectl(&["get", "--raw", &path])?)
    }

    /// A record's files, oldest first, fetched out of its agent.
    pub fn fetch(&self, record: &Value, to: &Scratch) -> Result<Vec<PathBuf>> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let agent = text(&self.agent(&text(&record["spec"]["node"]))?["metadata"]["name"]);
        let (namespace, name) = (text(&record["metadata"]["namespace"]), text(&record["metadata"]["name"]));
        let files = record["status"]["files"].as_array().context("no files")?;
        let fetched = files.iter().map(|file| {
            let file = text(&file["name"]);
            let copy = to.path().join(&file);
            let path = format!("/var/lib/podtap/{namespace}/{name}/{file}");
            self.copy_out("podtap-system", &agent, &path, &copy)?;
            Ok(copy)
        });
        fetched.collect()
    }
}

/// Agents with another configuration than the one that is deployed.
#[derive(Debug)]
pub struct Configured<'a>(&'a Cluster);

impl Drop for Configured<'_> {
    fn drop(&mut self) {
        if let Err(error) = Cluster::with_podtap().and_then(|_| self.0.restart_agents()) {
            eprintln!("agents may be left with a test's configuration: {error:#}");
        }
    }
}

impl Namespace<'_> {
    /// Has a CapturePolicy of its own, with this spec, select the namespace; it goes with the namespace.
    pub fn govern(&self, mut spec: Value) -> Result<()> {
        let name = self.policy.get_or_init(|| format!("test-{}", self.name()));
        spec["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": self.name()}});
        self.cluster.apply(&json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "CapturePolicy", "metadata": {"name": name}, "spec": spec,
        }))
    }

    /// Allows that many captures at once, each as long as a test may take.
    pub fn allow(&self, captures: u32) -> Result<()> {
        self.govern(json!({"caps": {"captures": captures, "duration": "1h"}}))
    }

    /// Deletes the policy that was made for it.
    pub fn forbid(&self) -> Result<()> {
        let name = self.policy.get().context("it has no policy of its own")?;
        self.cluster.kubectl(&["delete", "capturepolicy", name]).map(drop)
    }

    /// The records of runs, oldest first.
    pub fn records(&self) -> Result<Vec<Value>> {
        let list = self.get_json(&["podcaptures", "--sort-by=.metadata.creationTimestamp"])?;
        Ok(list["items"].as_array().context("no list")?.clone())
    }

    /// Waits until the run of that pod, asked for by its label or by a capture, is in one of these states.
    pub fn wait_run(&self, pod: &str, capture: Option<&str>, states: &[&str]) -> Result<Value> {
        self.wait_record(&format!("the run of {pod} by {capture:?} to be {states:?}"), AGENT, |record| {
            record["spec"]["pod"] == pod
                && record["spec"]["capture"].as_str() == capture
                && record["status"]["state"].as_str().is_some_and(|state| states.contains(&state))
        })
    }

    /// Waits until a record is as `wanted`.
    pub fn wait_record(&self, what: &str, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        wait(what, limit, || Ok(self.records()?.into_iter().find(&wanted)))
            .with_context(|| format!("{:#?}", self.records()))
    }
}
