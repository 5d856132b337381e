//! A captured pod that sends something numbered at a steady rate, so that what is missing is seen.

use anyhow::{Result, ensure};
use serde_json::Value;

use super::podtap::{AGENT, CAPTURE};
use super::{Cluster, Namespace, PodManifest};
use crate::blocks;
use crate::scratch::Scratch;
use crate::tools::agree;

/// Echo requests that the pod sends each second.
pub const RATE: u64 = 50;

/// A namespace with a pod `web` that is captured while it pings a peer, for as long as a test takes.
#[derive(Debug)]
pub struct Pinger<'a> {
    /// The namespace, which may have many captures.
    pub namespace: Namespace<'a>,
}

impl<'a> Pinger<'a> {
    /// Makes them on that node, in a namespace whose name begins with `prefix`, and waits until the first packets are
    /// captured.
    pub fn new(cluster: &'a Cluster, prefix: &str, node: &str) -> Result<Self> {
        let namespace = Namespace::make(cluster, prefix, &[])?;
        namespace.allow(100)?;
        let peer = namespace.run(&PodManifest::new("peer").on(node))?;
        let ping = format!("ping -i {} {} >/dev/null", 1.0 / RATE as f64, peer.address);
        namespace.run(&PodManifest::new("web").on(node).shell(&ping))?;
        namespace.kubectl(&["label", "pod", "web", &format!("{CAPTURE}=true")])?;
        let pinger = Self { namespace };
        pinger.record("to capture", |record| record["status"]["state"] == "Capturing")?;
        Ok(pinger)
    }

    /// Waits until the pod's record is as `wanted`.
    pub fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.namespace.wait_record(what, AGENT, |record| record["spec"]["pod"] == "web" && wanted(record))
    }

    /// Ends the capture and gives the echo requests' numbers, file by file, in order. An error when the record tells of
    /// a loss.
    pub fn end(&self) -> Result<Vec<Vec<u16>>> {
        self.namespace.kubectl(&["label", "pod", "web", &format!("{CAPTURE}-")])?;
        let record = self.record("to end", |record| record["status"]["state"] == "Stopped")?;
        self.sent(&record)
    }

    /// The echo requests' numbers in the files of a record of this pod's.
    pub fn sent(&self, record: &Value) -> Result<Vec<Vec<u16>>> {
        let drops = &record["status"]["drops"];
        ensure!(["ring", "rate", "storage"].iter().all(|cause| drops[cause] == 0), "lost: {record:#}");
        let scratch = Scratch::new("pinger")?;
        let files = self.namespace.cluster.fetch(record, &scratch)?;
        let numbers = files.iter().map(|file| {
            agree(file)?;
            let packets = blocks::read(file)?.packets;
            let request = |data: &[u8]| data[12..14] == [8, 0] && data[23] == 1 && data[34] == 8;
            let requests = packets.iter().filter(|packet| packet.outbound && request(&packet.data));
            Ok(requests.map(|packet| u16::from_be_bytes([packet.data[40], packet.data[41]])).collect())
        });
        numbers.collect()
    }
}

/// How many numbers are missing between the first and the last.
pub fn missing(numbers: &[u16]) -> u64 {
    let gaps = numbers.windows(2).map(|two| u64::from(two[1].wrapping_sub(two[0]).wrapping_sub(1)));
    gaps.sum()
}
