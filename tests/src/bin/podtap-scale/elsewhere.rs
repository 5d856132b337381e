//! Pods and captures that are not this node's, and what they cost its agent.

use anyhow::{Result, ensure};
use clap::Args;
use podtap_tests::cluster::{Cluster, SOON, wait};
use podtap_tests::fake::{Bulk, Call};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::mebibytes;

const PREFIX: &str = "podtap-elsewhere";
/// A node without a machine.
const NODE: &str = "podtap-scale";
const NODES: &str = "/api/v1/nodes";
const NAMESPACES: &str = "/api/v1/namespaces";
const CAPTURES: &str = "/apis/podtap.dev/v1alpha1/namespaces";

/// `elsewhere`
#[derive(Debug, Args)]
pub(crate) struct Elsewhere {
    /// Pods on the agent's node, which nobody captures.
    #[arg(long, value_name = "NUMBER", default_value = "250")]
    here: usize,

    /// Pods elsewhere. No scheduler gives them a node, so no kubelet starts them.
    #[arg(long, value_name = "NUMBER", default_value = "10000")]
    pods: usize,

    /// PacketCaptures that select some of the pods elsewhere each.
    #[arg(long, value_name = "NUMBER", default_value = "1000")]
    captures: usize,

    /// Namespaces that all of these are spread over.
    #[arg(long, value_name = "NUMBER", default_value = "50")]
    namespaces: usize,

    /// The most MiB that what is elsewhere may cost the agent.
    #[arg(long, value_name = "NUMBER", default_value = "10")]
    most: u64,

    /// Requests under way at once.
    #[arg(long, value_name = "NUMBER", default_value = "16")]
    at_once: usize,

    /// Only take away what an earlier run left.
    #[arg(long)]
    remove: bool,
}

impl Elsewhere {
    pub(crate) fn run(&self) -> Result<()> {
        let cluster = Cluster::with_podtap()?;
        let bulk = Bulk::new(&cluster)?;
        let measured = if self.remove { Ok(()) } else { self.measure(&cluster, &bulk) };
        let namespaces = (0..self.namespaces).map(|number| Call::delete(NAMESPACES, &namespace(number)));
        bulk.run(namespaces.chain([Call::delete(NODES, NODE)]), self.at_once)?;
        println!("{} namespaces are being removed", self.namespaces);
        measured
    }

    fn measure(&self, cluster: &Cluster, bulk: &Bulk) -> Result<()> {
        self.make_here(bulk)?;
        let agent = Agent::start(cluster, NODE)?;
        let before = agent.memory()?;
        println!("agent, {} pods on its node: {before}", self.here);
        self.make_elsewhere(bulk)?;
        let both = format!(
            "{} pods on its node, {} pods and {} PacketCaptures elsewhere",
            self.here, self.pods, self.captures
        );
        let after = agent.memory()?;
        println!("agent, {both}: {after}");
        drop(agent);
        let anew = Agent::start(cluster, NODE)?.memory()?;
        println!("agent, started anew with {both}: {anew}");
        let cost = [after, anew].map(|memory| memory.own.saturating_sub(before.own));
        let most = self.most << 20;
        println!(
            "what is elsewhere costs {}, and after a start {} (at most {})",
            mebibytes(cost[0]),
            mebibytes(cost[1]),
            mebibytes(most)
        );
        ensure!(
            cost.iter().all(|cost| *cost <= most),
            "what is elsewhere costs more than {}",
            mebibytes(most)
        );
        Ok(())
    }

    /// Namespaces, a node, and the pods on it.
    fn make_here(&self, bulk: &Bulk) -> Result<()> {
        let labels = json!({"podtap.dev/allow": "true"});
        let namespaces = (0..self.namespaces).map(|number| {
            let metadata = json!({"name": namespace(number), "labels": labels});
            Call::create(NAMESPACES, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
        });
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        bulk.run(namespaces.chain([Call::create(NODES, node)]), self.at_once)?;
        for number in 0..self.namespaces {
            let account = format!("{NAMESPACES}/{}/serviceaccounts/default", namespace(number));
            wait("service accounts", SOON, || bulk.get(&account).map(Some))?;
        }
        let place = |number: usize| format!("{NAMESPACES}/{}/pods", namespace(number % self.namespaces));
        let pods = (0..self.here).map(|number| {
            let mut pod = pod(&format!("here-{number}"), "here");
            pod["spec"]["nodeName"] = json!(NODE);
            // No kubelet ends them, and nobody is to take them away because of that.
            pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
            pod["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
            Call::create(&place(number), pod)
        });
        bulk.run(pods, self.at_once)?;
        let statuses = (0..self.here).map(|number| {
            let ip = format!("10.99.{}.{}", number / 250, number % 250 + 1);
            let container = json!({
                "name": "main", "image": "example.com/nothing:1", "imageID": "", "ready": true, "restartCount": 0,
                "containerID": format!("containerd://{number:064x}"), "state": {"running": {}},
            });
            let status = json!({
                "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "containerStatuses": [container],
            });
            Call::status(&place(number), &format!("here-{number}"), &status)
        });
        bulk.run(statuses, self.at_once)?;
        Ok(())
    }

    fn make_elsewhere(&self, bulk: &Bulk) -> Result<()> {
        let pods = (0..self.pods).map(|number| {
            let home = namespace(number % self.namespaces);
            let pod = pod(&format!("pod-{number}"), &format!("app-{}", number % 20));
            Call::create(&format!("{NAMESPACES}/{home}/pods"), pod)
        });
        let took = bulk.run(pods, self.at_once)?;
        println!("{} pods made in {:.1} s", self.pods, took.as_secs_f64());
        let captures = (0..self.captures).map(|number| {
            let home = namespace(number % self.namespaces);
            Call::create(&format!("{CAPTURES}/{home}/packetcaptures"), capture(number))
        });
        let took = bulk.run(captures, self.at_once)?;
        println!("{} PacketCaptures made in {:.1} s", self.captures, took.as_secs_f64());
        Ok(())
    }
}

fn namespace(number: usize) -> String {
    format!("{PREFIX}-{number}")
}

fn pod(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": app, "tier": "web"},
            "annotations": {"example.com/checksum": "0123456789abcdef0123456789abcdef"}},
        "spec": {
            "schedulerName": "nobody", "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "example.com/nothing:1", "env": [{"name": "A", "value": "b"}],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": true,
                    "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}}],
        },
    })
}

fn capture(number: usize) -> Value {
    json!({
        "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": format!("capture-{number}")},
        "spec": {"podSelector": {"matchLabels": {"app": format!("app-{}", number % 20)}}, "filter": "tcp port 80",
            "duration": "10m"},
    })
}
