//! Pods and captures that are not this node's.

use std::io::Read;

use anyhow::Result;
use clap::Args;
use podtap_tests::cluster::{Cluster, SOON, wait};
use podtap_tests::fake::{Bulk, Call};
use serde_json::{Value, json};

const PREFIX: &str = "podtap-elsewhere";
const CAPTURES: &str = "/apis/podtap.dev/v1alpha1/namespaces";

/// `elsewhere`
#[derive(Debug, Args)]
pub(crate) struct Elsewhere {
    /// Pods. No scheduler gives them a node, so no kubelet starts them.
    #[arg(long, value_name = "NUMBER", default_value = "10000")]
    pods: usize,

    /// PacketCaptures that select some of these pods each.
    #[arg(long, value_name = "NUMBER", default_value = "1000")]
    captures: usize,

    /// Namespaces that they are spread over.
    #[arg(long, value_name = "NUMBER", default_value = "50")]
    namespaces: usize,

    /// Requests under way at once.
    #[arg(long, value_name = "NUMBER", default_value = "16")]
    at_once: usize,

    /// Only take away what an earlier run left.
    #[arg(long)]
    remove: bool,
}

impl Elsewhere {
    pub(crate) fn run(&self) -> Result<()> {
        let cluster = Cluster::get()?;
        let bulk = Bulk::new(&cluster)?;
        let made = if self.remove { Ok(()) } else { self.make(&bulk) };
        if made.is_ok() && !self.remove {
            println!("Press Enter to take them away.");
            let _ = std::io::stdin().read(&mut [0]);
        }
        let namespaces =
            (0..self.namespaces).map(|number| Call::delete("/api/v1/namespaces", &namespace(number)));
        bulk.run(namespaces, self.at_once)?;
        println!("{} namespaces are being removed", self.namespaces);
        made
    }

    fn make(&self, bulk: &Bulk) -> Result<()> {
        let labels = json!({"podtap.dev/allow": "true"});
        let namespaces = (0..self.namespaces).map(|number| {
            let metadata = json!({"name": namespace(number), "labels": labels});
            Call::create(
                "/api/v1/namespaces",
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}),
            )
        });
        bulk.run(namespaces, self.at_once)?;
        for number in 0..self.namespaces {
            let account = format!("/api/v1/namespaces/{}/serviceaccounts/default", namespace(number));
            wait("service accounts", SOON, || bulk.get(&account).map(Some))?;
        }
        let pods = (0..self.pods).map(|number| {
            let home = namespace(number % self.namespaces);
            Call::create(&format!("/api/v1/namespaces/{home}/pods"), pod(number))
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

fn pod(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "labels": {"app": format!("app-{}", number % 20), "tier": "web"},
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
