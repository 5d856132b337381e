//! What many of these tests begin with: a pod whose packets to another are captured.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::pods::{Pod, Pods};
use podtap_tests::process::Process;
use podtap_tests::record::Record;
use podtap_tests::traffic::{Flood, sink};
use serde_json::{Value, json};

/// The port at which packets are taken.
pub(crate) const PORT: u16 = 9000;
/// The annotation by which they are captured, and nothing else.
pub(crate) const FILTER: (&str, &str) = ("filter", "udp port 9000");

/// Pod `a` is captured, and pod `b` takes what it sends.
pub(crate) struct Captured {
    pub(crate) agent: Agent,
    pub(crate) pods: Pods,
    _sink: Process,
}

impl Captured {
    /// By a's label, with these annotations besides the filter. There are `others` beside a and b.
    pub(crate) fn by_label(name: &str, others: &[&str], annotations: &[(&str, &str)]) -> Self {
        let mut captured = Self::not_yet(name, others);
        let annotations = [&[FILTER], annotations].concat();
        captured.agent.apply("a.yaml", &labelled(captured.pods.pod("a"), &annotations)).unwrap();
        captured.agent.wait_pod("a", &ATTACHED).unwrap();
        captured
    }

    /// By a PacketCapture `c` that asks for this besides pod and filter.
    pub(crate) fn by_capture(name: &str, mut spec: Value) -> Self {
        let mut captured = Self::not_yet(name, &[]);
        (spec["podNames"], spec["filter"]) = (json!(["a"]), json!(FILTER.1));
        captured.agent.apply("a.yaml", &pod(captured.pods.pod("a"))).unwrap();
        captured.agent.apply("c.yaml", &packet_capture("c", spec)).unwrap();
        captured.agent.wait_capture("c", &ATTACHED).unwrap();
        captured
    }

    fn not_yet(name: &str, others: &[&str]) -> Self {
        let pods = Pods::with(&[&["a", "b"], others].concat()).unwrap();
        let sink = sink(pods.pod("b"), PORT).unwrap();
        Self { agent: Agent::start(name).unwrap(), pods, _sink: sink }
    }

    /// What a pod sends to b.
    pub(crate) fn flood<'a>(&'a self, from: &'a Pod, packets: u64) -> Flood<'a> {
        Flood::new(from, self.pods.pod("b"), PORT, packets)
    }

    /// Sends from a to b, and waits until all is sent.
    pub(crate) fn send(&self, packets: u64) {
        self.flood(self.pods.pod("a"), packets).run().unwrap();
    }

    /// Takes the label off, and waits for the record of a run that is over.
    pub(crate) fn unlabel(&mut self) -> Record {
        self.agent.apply("a.yaml", &pod(self.pods.pod("a"))).unwrap();
        self.agent.wait_pod("a", &["Stopped"]).unwrap()
    }

    /// Removes the PacketCapture, and waits for the record of a run that is over.
    pub(crate) fn remove_capture(&mut self) -> Record {
        self.agent.remove("c.yaml").unwrap();
        self.agent.wait_capture("c", &["Stopped"]).unwrap()
    }
}
