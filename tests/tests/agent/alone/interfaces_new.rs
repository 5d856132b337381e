//! Pods that are made while somebody wants to capture them: whose interface it is gets known last, and what they send
//! first must be there all the same.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::Attached;
use podtap_tests::blocks::Packet;
use podtap_tests::cni::{self, Cni};
use podtap_tests::manifest::{annotate, label, packet_capture, pod_somewhere};
use podtap_tests::metrics::{Metrics, free_address};
use podtap_tests::pods::{Pod, Pods};
use podtap_tests::record::Record;
use podtap_tests::traffic::{Flood, sink};
use serde_json::{Value, json};

/// How long a CNI may take after the interface is up.
const CNI_TAKES: Duration = Duration::from_millis(300);

fn labelled(pod: &Pod, annotations: &[(&str, &str)]) -> Value {
    annotate(label(pod_somewhere(pod), "podtap.dev/capture", "true"), annotations)
}

/// An agent that can be asked how many taps it has ready, and where.
fn agent(name: &str, configuration: &str) -> (Agent, SocketAddr) {
    let address = free_address().unwrap();
    let mut agent =
        Agent::start_with(name, &format!("httpAddress: {address}\n{configuration}"), &[]).unwrap();
    agent.wait_ready().unwrap();
    (agent, address)
}

/// All packets of a record's files.
fn packets(record: &Record) -> Result<Vec<Packet>> {
    Ok(record.read()?.into_iter().flat_map(|file| file.packets).collect())
}

/// Waits until the agent has found out that a pod has no interface.
fn wait_pending(agent: &mut Agent, pod: &str) -> Result<()> {
    let record = agent.wait_pod(pod, &["Pending"])?;
    assert_eq!(record.reason(), "InterfaceMissing");
    Ok(())
}

/// Taps that are ready, and those on new interfaces.
fn taps(metrics: &Metrics) -> [u64; 2] {
    ["Ready", "Attached"].map(|stage| metrics.count("podtap_provisional_taps", &[("stage", stage)]).unwrap())
}

/// Waits until so many taps at least are ready for the runs that wait for an interface, and so many on new interfaces.
fn wait_taps(agent: &Agent, address: SocketAddr, taps: [u64; 2]) -> Result<()> {
    let records = agent.records()?;
    let waiting = records.iter().filter(|record| record.state() == "Pending").count() as u64;
    // Numbers are a second old at most: these are of now when they are about the same runs.
    Metrics::scrape_until(address, "taps to be ready", SOON, |metrics| {
        let runs = |labels: &[(&str, &str)]| metrics.count("podtap_runs", labels).unwrap_or(0);
        (runs(&[]), runs(&[("state", "Pending")])) == (records.len() as u64, waiting)
            && self::taps(metrics).iter().zip(taps).all(|(now, least)| *now >= least)
    })
    .map(drop)
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn everything_a_new_pod_sends_is_captured_from_its_first_neighbour_discovery_on() {
    let mut pods = Pods::with(&["b"]).unwrap();
    let names: Vec<String> = (0..10).map(|number| format!("a{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    pods.add(&names).unwrap();
    let b = pods.pod("b").clone();
    let cni = Cni::new("new").unwrap();
    // The first of them is the agent's very first capture.
    let (mut agent, address) = agent("new", &cni.configuration());
    for name in &names {
        let a = pods.pod(name);
        pods.disconnect(a).unwrap();
        agent.apply(&format!("{name}.yaml"), &labelled(a, &[])).unwrap();
        wait_pending(&mut agent, name).unwrap();
        wait_taps(&agent, address, [1, 0]).unwrap();
        let ping = format!("ping -c 1 -W 2 {}; ping -6 -c 1 -W 2 {}", b.v4, b.v6);
        cni::connect(&pods, a, &ping).unwrap();
        std::thread::sleep(CNI_TAKES);
        cni.done(a).unwrap();
        agent.wait_pod(name, &ATTACHED).unwrap();
        agent.remove(&format!("{name}.yaml")).unwrap();
        let record = agent.wait_pod(name, &["Stopped"]).unwrap();
        assert_eq!(record.attach_mode(), "Socket");
        let packets = packets(&record).unwrap();
        let own: Vec<&Packet> = packets.iter().filter(|packet| packet.data[6..12] == a.mac).collect();
        assert!(own.iter().all(|packet| packet.outbound));
        let first = |wanted: &dyn Fn(&[u8]) -> bool| {
            own.iter()
                .position(|packet| wanted(&packet.data))
                .unwrap_or_else(|| panic!("{name}: {packets:?}"))
        };
        let arp = first(&|data| data[12..14] == [8, 6] && data[20..22] == [0, 1]);
        let echo = first(&|data| data[12..14] == [8, 0] && data[23] == 1 && data[34] == 8);
        let solicitation = first(&|data| data[12..14] == [0x86, 0xdd] && data[20] == 58 && data[54] == 135);
        let echo6 = first(&|data| data[12..14] == [0x86, 0xdd] && data[20] == 58 && data[54] == 128);
        assert!(arp < echo && echo < echo6 && solicitation < echo6);
        let answers = packets.iter().filter(|packet| !packet.outbound && packet.data[6..12] == b.mac).count();
        assert!(answers >= 4, "{answers} packets to the pod: neighbours' answers and echo replies");
        assert!(record.json()["status"]["notes"].as_array().is_none_or(Vec::is_empty), "{}", record.json());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn no_packet_is_lost_or_doubled_when_a_new_interface_proves_to_be_the_pods() {
    const PACKETS: u64 = 2000;
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let cni = Cni::new("gapless").unwrap();
    let (mut agent, address) = agent("gapless", &cni.configuration());
    pods.disconnect(a).unwrap();
    // A label and an object, which want the same, and an object that wants something else.
    agent.apply("a.yaml", &labelled(a, &[("filter", "udp port 9000")])).unwrap();
    let objects = [
        ("same", json!({"podNames": ["a"], "filter": "udp port 9000"})),
        ("short", json!({"podNames": ["a"], "snapLength": 64})),
    ];
    for (name, spec) in objects {
        agent.apply(&format!("{name}.yaml"), &packet_capture(name, spec)).unwrap();
    }
    agent
        .wait("three runs", SOON, |records| {
            (records.len() == 3 && records.iter().all(|record| record.state() == "Pending")).then_some(())
        })
        .unwrap();
    wait_taps(&agent, address, [3, 0]).unwrap();
    cni::connect(&pods, a, "true").unwrap();
    let sending = Flood { rate: Some(2000), ..Flood::new(a, b, 9000, PACKETS) }.start().unwrap();
    std::thread::sleep(CNI_TAKES);
    cni.done(a).unwrap();
    assert_eq!(sending.wait().unwrap().packets, PACKETS);
    agent.remove("a.yaml").unwrap();
    let records = agent
        .wait("their end", SOON, |records| records.iter().all(Record::is_over).then(|| records.to_vec()))
        .unwrap();
    for record in &records {
        assert_eq!(record.numbers(9000).unwrap(), (0..PACKETS).collect::<Vec<_>>(), "{}", record.name());
        assert_eq!((record.dropped(), record.attach_mode()), (0, "Socket"));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn pods_made_at_once_never_see_each_others_packets() {
    const PODS: usize = 4;
    const PACKETS: u64 = 200;
    let names: Vec<String> = (0..PODS).map(|number| format!("a{number}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.extend(["b", "nobody"]);
    let pods = Pods::with(&all).unwrap();
    let (b, nobody) = (pods.pod("b"), pods.pod("nobody"));
    let new: Vec<&Pod> = names.iter().map(|name| pods.pod(name)).collect();
    let _sink = sink(b, 9000).unwrap();
    let cni = Cni::new("at-once").unwrap();
    let configuration = format!("{}caps: {{capturesPerNamespace: 20}}\n", cni.configuration());
    let (mut agent, address) = agent("at-once", &configuration);
    for pod in new.iter().chain([&nobody]) {
        pods.disconnect(pod).unwrap();
    }
    for (number, pod) in new.iter().enumerate() {
        // Half of them want something of their own.
        let own = format!("udp port 9000 and greater {}", 60 - number);
        let filter = if number % 2 == 0 { "udp port 9000" } else { own.as_str() };
        agent.apply(&format!("{}.yaml", pod.name), &labelled(pod, &[("filter", filter)])).unwrap();
    }
    for name in &names {
        wait_pending(&mut agent, name).unwrap();
    }
    // Two of the kind that two pods want, and one of each of the others.
    wait_taps(&agent, address, [4, 0]).unwrap();
    // One that nobody asked for is made among them.
    cni::connect(&pods, nobody, "true").unwrap();
    let mut sending =
        vec![Flood { rate: Some(400), ..Flood::new(nobody, b, 9000, PACKETS) }.start().unwrap()];
    for pod in &new {
        cni::connect(&pods, pod, "true").unwrap();
        sending.push(Flood { rate: Some(400), ..Flood::new(pod, b, 9000, PACKETS) }.start().unwrap());
    }
    for pod in new.iter().rev() {
        cni.done(pod).unwrap();
    }
    for sending in sending {
        assert_eq!(sending.wait().unwrap().packets, PACKETS);
    }
    for pod in &new {
        agent.remove(&format!("{}.yaml", pod.name)).unwrap();
    }
    for pod in &new {
        let record = agent.wait_pod(&pod.name, &["Stopped"]).unwrap();
        let senders: BTreeSet<Vec<u8>> =
            packets(&record).unwrap().iter().map(|packet| packet.data[6..12].to_vec()).collect();
        assert_eq!(senders, BTreeSet::from([pod.mac.to_vec()]), "{}", pod.name);
        assert_eq!(record.numbers(9000).unwrap(), (0..PACKETS).collect::<Vec<_>>(), "{}", pod.name);
    }
    assert_eq!(agent.records().unwrap().len(), PODS);
    // Nothing stays on the one that was nobody's.
    agent
        .wait("the tap of nobody's interface to go", SOON, |_| {
            (!Attached::on(&nobody.host_interface).unwrap().any()).then_some(())
        })
        .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_index_used_again_before_anybody_knew_never_mixes_two_pods() {
    let pods = Pods::with(&["a", "b", "c"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, 9000).unwrap();
    let cni = Cni::new("reuse").unwrap();
    let (mut agent, address) = agent("reuse", &cni.configuration());
    pods.disconnect(a).unwrap();
    pods.disconnect(c).unwrap();
    agent.apply("a.yaml", &labelled(a, &[])).unwrap();
    wait_pending(&mut agent, "a").unwrap();
    wait_taps(&agent, address, [1, 0]).unwrap();
    // Another pod's interface comes and goes, and the pod's own gets its index.
    let index = 100_000 + std::process::id() % 100_000;
    pods.connect_as(c, index).unwrap();
    Flood::new(c, b, 9000, 1000).run().unwrap();
    let tapped = || Attached::on(&c.host_interface).unwrap().any();
    agent.wait("it to be tapped provisionally", SOON, |_| tapped().then_some(())).unwrap();
    // And the next one to be ready.
    wait_taps(&agent, address, [1, 1]).unwrap();
    pods.disconnect(c).unwrap();
    pods.connect_as(a, index).unwrap();
    Flood::new(a, b, 9000, 50).run().unwrap();
    std::thread::sleep(CNI_TAKES);
    cni.done(a).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    agent.remove("a.yaml").unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    let packets = packets(&record).unwrap();
    assert_eq!(packets.iter().filter(|packet| packet.data[6..12] == c.mac).count(), 0);
    assert_eq!(record.numbers(9000).unwrap(), (0..50).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn without_memory_for_new_interfaces_the_record_says_what_may_be_missing() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let cni = Cni::new("none").unwrap();
    let configuration = format!("{}provisionalBytes: 0\n", cni.configuration());
    let (mut agent, _) = agent("none", &configuration);
    pods.disconnect(a).unwrap();
    agent.apply("a.yaml", &labelled(a, &[("filter", "udp port 9000")])).unwrap();
    wait_pending(&mut agent, "a").unwrap();
    cni::connect(&pods, a, "true").unwrap();
    Flood::new(a, b, 9000, 10).run().unwrap();
    assert!(!Attached::on(&a.host_interface).unwrap().any());
    cni.done(a).unwrap();
    let record = agent.wait_pod("a", &ATTACHED).unwrap();
    let notes = record.json()["status"]["notes"].to_string();
    assert!(notes.contains("first packets may be missing"), "{notes}");
    Flood::new(a, b, 9000, 10).run().unwrap();
    agent.remove("a.yaml").unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.numbers(9000).unwrap(), (0..10).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn memory_for_new_interfaces_is_bounded_and_the_oldest_give_way() {
    let others = ["c0", "c1", "c2", "c3", "c4", "c5"];
    let pods = Pods::with(&[&others[..], &["a", "b"]].concat()).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let cni = Cni::new("bounded").unwrap();
    let configuration = format!("{}provisionalBytes: 3Mi\n", cni.configuration());
    let (mut agent, address) = agent("bounded", &configuration);
    for pod in pods.all().iter().filter(|pod| pod.name != "b") {
        pods.disconnect(pod).unwrap();
    }
    agent.apply("a.yaml", &labelled(a, &[("filter", "udp port 9000")])).unwrap();
    wait_pending(&mut agent, "a").unwrap();
    wait_taps(&agent, address, [1, 0]).unwrap();
    let tapped = || others.map(|name| Attached::on(&pods.pod(name).host_interface).unwrap().sockets);
    for name in others {
        cni::connect(&pods, pods.pod(name), "true").unwrap();
    }
    agent.wait("all taps there may be", SOON, |_| (tapped().iter().sum::<u32>() >= 3).then_some(())).unwrap();
    assert_eq!(tapped(), [1, 1, 1, 0, 0, 0], "three rings of 1 MiB");
    // Those that nobody has claimed for long make room for one that is to come.
    agent.wait("one to give way", SOON, |_| (tapped().iter().sum::<u32>() < 3).then_some(())).unwrap();
    wait_taps(&agent, address, [1, 0]).unwrap();
    cni::connect(&pods, a, "true").unwrap();
    Flood::new(a, b, 9000, 50).run().unwrap();
    cni.done(a).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    agent.remove("a.yaml").unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.numbers(9000).unwrap(), (0..50).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn taps_for_pods_without_an_interface_are_counted_with_their_bound() {
    let pods = Pods::with(&["a", "other"]).unwrap();
    let (a, other) = (pods.pod("a"), pods.pod("other"));
    pods.disconnect(a).unwrap();
    pods.disconnect(other).unwrap();
    let cni = Cni::new("provisional").unwrap();
    let (agent, address) = agent("provisional", &format!("{}provisionalBytes: 8Mi\n", cni.configuration()));
    let until =
        |what: &str, so: &dyn Fn(&Metrics) -> bool| Metrics::scrape_until(address, what, SOON, so).unwrap();
    let used = |metrics: &Metrics| metrics.count("podtap_provisional_rings_used_bytes", &[]).unwrap();
    let before = until("numbers", &|metrics| {
        metrics.count("podtap_provisional_rings_limit_bytes", &[]).unwrap() == 8 << 20
    });
    assert_eq!((taps(&before), used(&before)), ([0, 0], 0));
    agent.apply("a.yaml", &label(pod_somewhere(a), "podtap.dev/capture", "true")).unwrap();
    let ready = until("a tap to be ready", &|metrics| taps(metrics)[0] > 0);
    assert_eq!(taps(&ready)[1], 0);
    // Somebody else's, but that is not known yet.
    pods.connect(other).unwrap();
    let attached = until("a tap on the new interface", &|metrics| taps(metrics)[1] == 1);
    let rings = used(&attached);
    assert!((1 << 20..=8 << 20).contains(&rings), "{rings}");
    assert_eq!(attached.count("podtap_taps_attached", &[]).unwrap(), 0, "it is no capture's");
    agent.remove("a.yaml").unwrap();
    until("all to be gone", &|metrics| taps(metrics) == [0, 0] && used(metrics) == 0);
}
