//! Real pods' interfaces, made by a real CNI: found, and captured from their first packet on.

use std::net::IpAddr;

use anyhow::Result;
use podtap_tests::blocks::{self, Packet};
use podtap_tests::cluster::podtap::{AGENT, ATTACHED, CAPTURE};
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, RunningPod, wait};
use podtap_tests::scratch::Scratch;
use serde_json::{Value, json};

const OVER: [&str; 4] = ["Completed", "Stopped", "Refused", "Failed"];
/// How many new pods in a row must lose nothing.
const TRIES: usize = 10;

/// A namespace that may capture by the default policy.
fn namespace<'a>(cluster: &'a Cluster, name: &str) -> Result<Namespace<'a>> {
    Namespace::make(cluster, name, &[("podtap.dev/allow", "true")])
}

/// The packets of a record's files, fetched out of the agent of its node.
fn packets(cluster: &Cluster, record: &Value) -> Result<Vec<Packet>> {
    let scratch = Scratch::new("fetched")?;
    let mut packets = Vec::new();
    for file in cluster.fetch(record, &scratch)? {
        packets.extend(blocks::read(&file)?.packets);
    }
    Ok(packets)
}

fn ipv4(pod: &RunningPod) -> [u8; 4] {
    match pod.address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => panic!("the test speaks IPv4"),
    }
}

/// A new pod whose first deed is to call the server.
fn caller(name: &str, server: &RunningPod) -> PodManifest {
    let call = format!("nc {} 8080 </dev/null; sleep 3600", server.address);
    PodManifest::new(name).on("node1").label(CAPTURE, "true").shell(&call)
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_pod_that_is_made_with_the_label_is_captured_from_its_first_packet_on() {
    let cluster = Cluster::with_podtap().unwrap();
    let namespace = namespace(&cluster, "first").unwrap();
    // Answers each call and counts nothing. On the other node: what comes in has passed two hosts.
    let listen = "while true; do echo hello | nc -l -p 8080; done";
    let server = namespace.run(&PodManifest::new("server").on("node2").shell(listen)).unwrap();
    for number in 0..TRIES {
        let name = format!("new-{number}");
        let pod = namespace.run(&caller(&name, &server)).unwrap();
        wait("the call to be captured", AGENT, || {
            let record = namespace.wait_run(&name, None, &ATTACHED)?;
            Ok((record["status"]["packets"].as_u64() >= Some(4)).then_some(()))
        })
        .unwrap();
        namespace.kubectl(&["label", "pod", &name, &format!("{CAPTURE}-")]).unwrap();
        let record = namespace.wait_run(&name, None, &OVER).unwrap();
        assert_eq!(record["status"]["attachMode"], "Socket", "{record:#}");
        let packets = packets(&cluster, &record).unwrap();
        let (own, other) = (ipv4(&pod), ipv4(&server));
        let place = |what: &str, wanted: &dyn Fn(&Packet) -> bool| {
            let found = packets.iter().position(wanted);
            found.unwrap_or_else(|| panic!("{name}: no {what} in {packets:#?}"))
        };
        let asks = place("question for the gateway's address", &|packet| {
            packet.outbound
                && packet.data[12..14] == [8, 6]
                && packet.data[28..32] == own
                && packet.data[38..42] != own
        });
        let tcp = |packet: &Packet, from: [u8; 4], to: [u8; 4], flags: u8| {
            packet.data[12..14] == [8, 0]
                && packet.data[23] == 6
                && packet.data[26..30] == from
                && packet.data[30..34] == to
                && packet.data[47] & 0x12 == flags
        };
        let calls = place("SYN", &|packet| packet.outbound && tcp(packet, own, other, 0x02));
        let answer = place("SYN and ACK", &|packet| !packet.outbound && tcp(packet, other, own, 0x12));
        assert!(asks < calls && calls < answer, "{name}: {packets:#?}");
        let outbound = packets.iter().filter(|packet| packet.outbound);
        let mac = &packets[calls].data[6..12];
        assert!(outbound.clone().all(|packet| &packet.data[6..12] == mac), "{name}: another pod's packets");
        assert!(!record["status"]["notes"].to_string().contains("first packets"), "{record:#}");
        namespace.delete_pod(&name).unwrap();
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn pods_that_are_made_at_once_get_their_own_first_packets_and_no_others() {
    let cluster = Cluster::with_podtap().unwrap();
    let namespace = namespace(&cluster, "at-once").unwrap();
    let listen = "while true; do echo hello | nc -l -p 8080; done";
    let server = namespace.run(&PodManifest::new("server").on("node2").shell(listen)).unwrap();
    let names = ["new-a", "new-b", "new-c"];
    let pods = namespace.run_all(&names.map(|name| caller(name, &server))).unwrap();
    for (name, pod) in names.iter().zip(&pods) {
        wait("the call to be captured", AGENT, || {
            let record = namespace.wait_run(name, None, &ATTACHED)?;
            Ok((record["status"]["packets"].as_u64() >= Some(4)).then_some(()))
        })
        .unwrap();
        namespace.kubectl(&["label", "pod", name, &format!("{CAPTURE}-")]).unwrap();
        let record = namespace.wait_run(name, None, &OVER).unwrap();
        let packets = packets(&cluster, &record).unwrap();
        let syn = |packet: &&Packet| {
            packet.data[12..14] == [8, 0]
                && packet.data[23] == 6
                && packet.outbound
                && packet.data[47] & 0x12 == 2
        };
        let callers: Vec<&[u8]> = packets.iter().filter(syn).map(|packet| &packet.data[26..30]).collect();
        assert!(!callers.is_empty() && callers.iter().all(|from| *from == ipv4(pod)), "{name}: {callers:?}");
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn annotations_that_name_an_interface_are_refused() {
    let cluster = Cluster::with_podtap().unwrap();
    let namespace = namespace(&cluster, "names").unwrap();
    let victim = namespace.run(&PodManifest::new("victim").on("node1")).unwrap();
    for (number, (key, value)) in
        [("interface", "veth0"), ("interface", "cni0"), ("netns", "/proc/1/ns/net")].iter().enumerate()
    {
        let name = format!("attacker-{number}");
        let pod = PodManifest::new(&name).on("node1").label(CAPTURE, "true");
        namespace.apply(&pod.annotation(&format!("podtap.dev/{key}"), value).manifest()).unwrap();
        let record = namespace.wait_run(&name, None, &["Refused"]).unwrap();
        assert_eq!(record["status"]["packets"].as_u64().unwrap_or(0), 0, "{record:#}");
    }
    drop(victim);
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_pods_interface_goes_by_its_name_inside() {
    let cluster = Cluster::with_podtap().unwrap();
    let namespace = namespace(&cluster, "inside").unwrap();
    let pods = ["web", "peer"].map(|name| PodManifest::new(name).on("node1"));
    let pods = namespace.run_all(&pods).unwrap();
    for (name, interface) in [("eth0", "eth0"), ("net1", "net1")] {
        namespace
            .apply(&json!({"apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": name},
                "spec": {"podNames": ["web"], "interface": interface, "filter": "icmp"}}))
            .unwrap();
    }
    namespace.wait_run("web", Some("eth0"), &ATTACHED).unwrap();
    let missing = namespace.wait_run("web", Some("net1"), &["Pending"]).unwrap();
    let message = missing["status"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("net1") && message.contains("eth0"), "{missing:#}");
    namespace.exec("peer", &["ping", "-c", "2", &pods[0].address.to_string()]).unwrap();
    namespace.wait_run("web", Some("eth0"), &["Capturing"]).unwrap();
}

/// A pod that a node's kubelet runs by itself, until this is dropped.
struct StaticPod<'a>(&'a Cluster);

impl<'a> StaticPod<'a> {
    const FILE: &'static str = "/var/lib/kubelet/manifests/podtap-test.json";

    fn make(cluster: &'a Cluster, manifest: &Value) -> Result<Self> {
        let write = format!("printf '%s' '{manifest}' >{}", Self::FILE);
        cluster.on("node1", &["sh", "-c", &write])?;
        Ok(Self(cluster))
    }
}

impl Drop for StaticPod<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.on("node1", &["rm", "-f", Self::FILE]) {
            eprintln!("{} of node1 may be left: {error:#}", Self::FILE);
        }
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_static_pods_interface_goes_by_its_hash() {
    let Some(cluster) = Cluster::own_with_podtap().unwrap() else { return };
    let namespace = namespace(&cluster, "static").unwrap();
    let pods = namespace.run(&PodManifest::new("peer").on("node1")).unwrap();
    namespace
        .apply(&json!({"apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": "icmp"},
            "spec": {"podNames": ["fixed-node1"], "filter": "icmp"}}))
        .unwrap();
    let mut manifest = PodManifest::new("fixed").manifest();
    manifest["metadata"]["namespace"] = json!(namespace.name());
    let _fixed = StaticPod::make(&cluster, &manifest).unwrap();
    let fixed = namespace.wait_running("fixed-node1").unwrap();
    namespace.wait_run("fixed-node1", Some("icmp"), &ATTACHED).unwrap();
    namespace.exec("peer", &["ping", "-c", "2", &fixed.address.to_string()]).unwrap();
    let record = namespace.wait_run("fixed-node1", Some("icmp"), &["Capturing"]).unwrap();
    // The API server's pod has another UID than the one that the CNI was told.
    assert_eq!(record["spec"]["podUID"], fixed.uid.as_str());
    assert_ne!(fixed.address, pods.address);
}
