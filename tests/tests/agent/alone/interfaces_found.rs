//! Which interface is a pod's, when nobody says so: by the CNI's results, or by its address. And everything that might
//! make the agent take another's.

use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::attached::Attached;
use podtap_tests::cni::{Cni, result};
use podtap_tests::manifest::{annotate, label, packet_capture, pod_somewhere};
use podtap_tests::pods::{INTERFACE, Pod, Pods, mac_text};
use podtap_tests::process::{output, program};
use podtap_tests::traffic::{Flood, sink};
use serde_json::{Value, json};

fn labelled(pod: &Pod) -> Value {
    annotate(label(pod_somewhere(pod), "podtap.dev/capture", "true"), &[("filter", "udp port 9000")])
}

fn with_address(pod: &Pod) -> Value {
    let mut manifest = labelled(pod);
    manifest["status"] = json!({"podIPs": [{"ip": pod.v4.to_string()}]});
    manifest
}

/// Waits a while, during which nothing of the pod may be captured, whoever sends.
fn stays_pending(agent: &mut Agent, pod: &str, senders: &[&Pod], to: &Pod) -> Result<String> {
    for sender in senders {
        Flood::new(sender, to, 9000, 100).run()?;
    }
    std::thread::sleep(Duration::from_millis(1500));
    for sender in senders {
        Flood::new(sender, to, 9000, 100).run()?;
        assert!(!Attached::on(&sender.host_interface)?.any(), "{} is tapped", sender.name);
    }
    let record = agent.wait_pod(pod, &["Pending"])?;
    assert_eq!((record.reason(), record.packets()), ("InterfaceMissing", 0));
    Ok(record.message().to_owned())
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_cnis_result_that_misleads_never_gives_another_pods_packets() {
    let pods = Pods::with(&["a", "b", "c"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, 9000).unwrap();
    let cni = Cni::new("mislead").unwrap();
    let mut agent = Agent::start_with("mislead", &cni.configuration(), &[]).unwrap();
    agent.apply("a.yaml", &labelled(a)).unwrap();
    let netns = |pod: &Pod| format!("/var/run/netns/{}", pod.netns);

    // Outside the directory of namespaces, by a path or by a link.
    let link = format!("{}-link", a.netns);
    symlink(c.netns_path(), format!("/run/netns/{link}")).unwrap();
    for (number, path) in [
        format!("/proc/{}/ns/net", std::process::id()),
        "/proc/1/ns/net".to_owned(),
        format!("/var/run/netns/../netns/{}", c.netns),
        format!("/var/run/netns/{link}"),
        "/var/run/netns/".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        cni.write(&format!("path-{number}"), &result(a, INTERFACE, path)).unwrap();
        stays_pending(&mut agent, "a", &[a, c], b).unwrap();
        std::fs::remove_file(cni.path(&format!("path-{number}"))).unwrap();
    }
    // The bridge is the first interface and calls itself eth0; the pod's own name is another.
    let mut bridge = result(a, INTERFACE, "");
    bridge["result"]["interfaces"] =
        json!([{"name": INTERFACE, "sandbox": ""}, {"name": "eth1", "sandbox": netns(c)}]);
    cni.write("bridge", &bridge).unwrap();
    stays_pending(&mut agent, "a", &[a, c], b).unwrap();
    std::fs::remove_file(cni.path("bridge")).unwrap();
    // A file that is a link to another pod's.
    cni.write("c", &result(c, INTERFACE, &netns(c))).unwrap();
    symlink(cni.path("c"), cni.path("linked")).unwrap();
    // The same name in another namespace, and the same name with another UID.
    for (key, value) in [(1, "other"), (3, "uid-of-a-predecessor")] {
        let mut other = result(a, INTERFACE, &netns(c));
        other["cniArgs"][key][1] = json!(value);
        cni.write("other", &other).unwrap();
        stays_pending(&mut agent, "a", &[a, c], b).unwrap();
    }
    std::fs::remove_file(cni.path("other")).unwrap();
    // What is left of a sandbox whose namespace another pod has by now, whichever was written first.
    cni.write("stale", &result(a, INTERFACE, &netns(c))).unwrap();
    let message = stays_pending(&mut agent, "a", &[a, c], b).unwrap();
    assert!(message.contains("to several pods"), "{message}");
    cni.write("c", &result(c, INTERFACE, &netns(c))).unwrap();
    stays_pending(&mut agent, "a", &[a, c], b).unwrap();

    // The truth at last.
    cni.done(a).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(c, b, 9000, 100).run().unwrap();
    Flood::new(a, b, 9000, 10).run().unwrap();
    agent.remove("a.yaml").unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.numbers(9000).unwrap(), (0..10).collect::<Vec<_>>());
    assert_eq!(record.packets(), 10);
    std::fs::remove_file(format!("/run/netns/{link}")).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_pod_is_found_by_its_address_where_there_is_no_result() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start_with("address", "cniCacheDirs: []\n", &[]).unwrap();
    agent.wait_ready().unwrap();
    agent.apply("a.yaml", &with_address(a)).unwrap();
    let record = agent.wait_pod("a", &ATTACHED).unwrap();
    assert_eq!(record.json()["status"]["interface"], a.host_interface.as_str());
    Flood::new(b, a, 9000, 10).run().unwrap();
    agent.remove("a.yaml").unwrap();
    assert_eq!(agent.wait_pod("a", &["Stopped"]).unwrap().to_pod().matched, 10);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_address_that_was_handed_on_never_gives_another_pods_packets() {
    let pods = Pods::with(&["a", "b", "c"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, 9000).unwrap();
    // Taps on new interfaces would hide whether one is taken for the pod's.
    let configuration = "cniCacheDirs: []\nprovisionalBytes: 0\n";
    let mut agent = Agent::start_with("handed", configuration, &[]).unwrap();
    agent.wait_ready().unwrap();
    // The pod's sandbox is gone, and another pod was made that has got its address; nobody has told the agent.
    agent.apply("a.yaml", &with_address(a)).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    pods.disconnect(a).unwrap();
    agent.wait_pod("a", &["Pending"]).unwrap();
    pods.disconnect(c).unwrap();
    let as_a = Pod { mac: c.mac, v4: a.v4, v6: a.v6, ..c.clone() };
    pods.connect(&as_a).unwrap();
    let message = stays_pending(&mut agent, "a", &[&as_a], b).unwrap();
    assert!(message.contains("newer than the pod's claim"), "{message}");
    // Two interfaces with one address are nobody's either.
    pods.connect(a).unwrap();
    stays_pending(&mut agent, "a", &[&as_a, a], b).unwrap();
    agent.remove("a.yaml").unwrap();
    assert_eq!(agent.wait_pod("a", &["Stopped"]).unwrap().packets(), 0);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_interface_other_than_the_default_goes_by_its_name_in_the_pod() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let cni = Cni::new("multi").unwrap();
    let mut agent = Agent::start_with("multi", &cni.configuration(), &[]).unwrap();
    cni.done(a).unwrap();
    agent.apply("a.yaml", &pod_somewhere(a)).unwrap();
    let spec =
        |interface: &str| json!({"podNames": ["a"], "interface": interface, "filter": "udp port 9000"});
    agent
        .apply(
            "default.yaml",
            &packet_capture("default", json!({"podNames": ["a"], "filter": "udp port 9000"})),
        )
        .unwrap();
    agent.apply("second.yaml", &packet_capture("second", spec("net1"))).unwrap();
    agent.apply("wrong.yaml", &packet_capture("wrong", spec("a/b"))).unwrap();
    agent.wait_capture("default", &ATTACHED).unwrap();
    let record = agent.wait_capture("wrong", &["Refused"]).unwrap();
    assert!(record.message().contains("spec.interface"), "{}", record.message());
    let record = agent.wait_capture("second", &["Pending"]).unwrap();
    assert!(
        record.message().contains("net1") && record.message().contains(INTERFACE),
        "{}",
        record.message()
    );

    // A second network, which has no result of its own in the cache.
    let second =
        Pod { host_interface: format!("{}x", a.host_interface), mac: [2, 0x70, 0x75, 0, 0, 1], ..a.clone() };
    let (host, mac) = (&second.host_interface, mac_text(second.mac));
    output(Command::new("ip").args([
        "link", "add", host, "type", "veth", "peer", "name", "net1", "address", &mac, "netns", &a.netns,
    ]))
    .unwrap();
    output(Command::new("sh").args(["-c", &pods.host_side(&second)])).unwrap();
    output(Command::new("ip").args(["-n", &a.netns, "link", "set", "net1", "up"])).unwrap();
    let record = agent.wait_capture("second", &ATTACHED).unwrap();
    assert_eq!(record.json()["status"]["interface"], host.as_str());
    Flood::new(a, b, 9000, 20).run().unwrap();
    // Whole frames, out of the second interface.
    let mut send = a.command(program("podtap-traffic").unwrap());
    send.args(["send", "--interface", "net1", "--from", "10.88.0.1", "--from-mac", &mac]);
    send.args(["--to", "10.88.0.2", "--to-mac", &mac_text(b.mac), "--port", "9000", "--packets", "3"]);
    output(&mut send).unwrap();
    for file in ["default", "second", "wrong", "a"] {
        agent.remove(&format!("{file}.yaml")).unwrap();
    }
    let first = agent.wait_capture("default", &["Stopped"]).unwrap();
    assert_eq!(first.numbers(9000).unwrap(), (0..20).collect::<Vec<_>>());
    assert_eq!(first.packets(), 20);
    let second = agent.wait_capture("second", &["Stopped"]).unwrap();
    assert_eq!((second.numbers(9000).unwrap(), second.packets()), (vec![0, 1, 2], 3));
}
