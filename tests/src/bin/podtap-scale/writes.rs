//! What an agent writes to the API server while it has much to tell.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, wait};
use podtap_tests::process::Process;
use podtap_tests::scratch::Scratch;
use serde_json::{Value, json};

/// How long it may take until all captures run and their records say so.
const PATIENCE: Duration = Duration::from_secs(300);
/// What is written when captures begin is over then, also their Events.
const SETTLED: Duration = Duration::from_secs(20);

/// `writes`
#[derive(Debug, Args)]
pub(crate) struct Writes {
    /// Captures that run on the node, of pods that send all the time.
    #[arg(long, value_name = "NUMBER", default_value = "100")]
    captures: usize,

    /// Pods that these are spread over.
    #[arg(long, value_name = "NUMBER", default_value = "10")]
    pods: usize,

    /// For how long writes are counted.
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    seconds: u64,

    /// The most writes a second.
    #[arg(long, value_name = "NUMBER", default_value = "5")]
    most: f64,
}

impl Writes {
    pub(crate) fn run(&self) -> Result<()> {
        let each = self.captures.checked_div(self.pods).context("no pods")?;
        ensure!(each * self.pods == self.captures, "as many captures for each pod, please");
        let cluster = Cluster::with_podtap()?;
        let node = cluster.nodes()?.into_iter().next().context("no node")?;
        let namespace = Namespace::make(&cluster, "podtap-scale", &[])?;
        namespace.allow(u32::try_from(self.captures)?)?;
        let peer = namespace.run(&PodManifest::new("peer").on(&node))?;
        let ping = format!("ping -i 0.2 {} >/dev/null", peer.address);
        let pod =
            |number| PodManifest::new(&format!("pod-{number}")).on(&node).label("app", "busy").shell(&ping);
        namespace.run_all(&(0..self.pods).map(pod).collect::<Vec<_>>())?;
        let begun = Instant::now();
        for number in 0..each {
            namespace.apply(&json!({
                "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
                "metadata": {"name": format!("c{number}")},
                "spec": {"podSelector": {"matchLabels": {"app": "busy"}}, "duration": "1h"},
            }))?;
        }
        wait("all captures to run", PATIENCE, || {
            let records = namespace.records()?;
            let running = records.iter().filter(|record| record["status"]["state"] == "Capturing").count();
            Ok((running == self.captures).then_some(()))
        })?;
        println!(
            "{} captures of {} pods run on {node}, as their records say {:.1} s after the first request",
            self.captures,
            self.pods,
            begun.elapsed().as_secs_f64()
        );
        self.count(&namespace, &node)
    }

    fn count(&self, namespace: &Namespace<'_>, node: &str) -> Result<()> {
        let records = Watch::start(namespace, "podcaptures")?;
        let events = Watch::start(namespace, "events.v1.events.k8s.io")?;
        let now = || -> Result<Counts> {
            let metrics = namespace.cluster.agent_metrics(node)?;
            let packets = |record: &Value| {
                let status = &record["status"];
                (record["metadata"]["name"].to_string(), status["packets"].as_u64().unwrap_or_default())
            };
            Ok(Counts {
                records: records.writes()?,
                events: events.writes()?,
                by_agent: metrics.count("podtap_api_writes_total", &[])?,
                packets: namespace.records()?.iter().map(packets).collect(),
            })
        };
        std::thread::sleep(SETTLED);
        let (before, begun) = (now()?, Instant::now());
        std::thread::sleep(Duration::from_secs(self.seconds));
        let (after, took) = (now()?, begun.elapsed().as_secs_f64());
        let a_second = |of: fn(&Counts) -> u64| (of(&after) - of(&before)) as f64 / took;
        let told = a_second(|counts| counts.records + counts.events);
        let by_agent = a_second(|counts| counts.by_agent);
        println!(
            "in {took:.0} s the API server told of {:.2} changed records and {:.2} Events a second; the agent counted \
             {by_agent:.2} writes a second (at most {})",
            a_second(|counts| counts.records),
            a_second(|counts| counts.events),
            self.most
        );
        let moved =
            |(name, before): &(&String, &u64)| after.packets.get(*name).is_some_and(|now| now > *before);
        let moved = before.packets.iter().filter(moved).count();
        println!("{moved} of {} records told of more packets than before", self.captures);
        ensure!(told.max(by_agent) <= self.most, "more than {} writes a second", self.most);
        ensure!(moved == self.captures, "records stood still");
        Ok(())
    }
}

/// How much was written so far.
struct Counts {
    records: u64,
    events: u64,
    /// Both, and what the API server did not take.
    by_agent: u64,
    /// Packets of each record.
    packets: BTreeMap<String, u64>,
}

/// What the API server tells of a namespace's objects: a line for each change.
struct Watch {
    said: PathBuf,
    _kubectl: Process,
    _scratch: Scratch,
}

impl Watch {
    fn start(namespace: &Namespace<'_>, resource: &str) -> Result<Self> {
        let scratch = Scratch::new("scale-watch")?;
        let said = scratch.path().join("said");
        let words = ["get", resource, "--namespace", namespace.name(), "--watch-only", "-o", "name"];
        let kubectl = Process::start(namespace.cluster.command(&words).stdout(File::create(&said)?))?;
        Ok(Self { said, _kubectl: kubectl, _scratch: scratch })
    }

    fn writes(&self) -> Result<u64> {
        Ok(u64::try_from(std::fs::read_to_string(&self.said)?.lines().count())?)
    }
}
