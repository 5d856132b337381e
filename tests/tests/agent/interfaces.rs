//! A pod's interface that is late, goes away, comes back, or is another pod's by now.

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::{Attached, tcx_exists};
use podtap_tests::manifest::{labelled, pod};
use podtap_tests::pods::Pods;
use podtap_tests::traffic::{Flood, sink};

use super::captured::Captured;

const FILTER: [(&str, &str); 1] = [("filter", "udp port 9000")];

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_interface_that_appears_later_is_captured_and_again_after_it_was_away() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    pods.disconnect(a).unwrap();
    let mut agent = Agent::start("late").unwrap();
    agent.apply("a.yaml", &labelled(a, &FILTER)).unwrap();
    let record = agent.wait_pod("a", &["Pending"]).unwrap();
    assert!(record.message().contains(&a.host_interface), "{}", record.message());
    for packets in [10, 20] {
        pods.connect(a).unwrap();
        agent.wait_pod("a", &ATTACHED).unwrap();
        Flood::new(a, b, 9000, packets).run().unwrap();
        pods.disconnect(a).unwrap();
        agent.wait_pod("a", &["Pending"]).unwrap();
    }
    agent.apply("a.yaml", &pod(a)).unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.numbers(9000).unwrap(), (0..10).chain(0..20).collect::<Vec<u64>>());
    assert_eq!(record.files().len(), 2, "a file for each time");
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_index_used_again_never_mixes_two_pods() {
    let mut captured = Captured::by_label("index", &["c"], &[]);
    let (pods, a) = (&captured.pods, captured.pods.pod("a"));
    let c = pods.pod("c").clone();
    captured.send(10);
    let index = std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", a.host_interface)).unwrap();
    pods.disconnect(&c).unwrap();
    pods.disconnect(a).unwrap();
    pods.connect_as(&c, index.trim().parse().unwrap()).unwrap();
    assert_eq!(
        std::fs::read_to_string(format!("/sys/class/net/{}/ifindex", c.host_interface)).unwrap(),
        index
    );
    captured.flood(&c, 1000).run().unwrap();
    captured.agent.wait_pod("a", &["Pending"]).unwrap();
    captured.flood(&c, 1000).run().unwrap();
    let record = captured.unlabel();
    let from_c = |packet: &podtap_tests::blocks::Packet| packet.data[6..12] == c.mac;
    let files = record.read().unwrap();
    assert_eq!(files.iter().flat_map(|file| &file.packets).filter(|packet| from_c(packet)).count(), 0);
    assert_eq!(record.packets(), 10);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_renamed_interface_is_still_the_pods_and_a_taken_name_is_not() {
    let pods = Pods::with(&["a", "b", "c"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("netns").unwrap();
    let mut one = labelled(a, &FILTER);
    let annotations = one["metadata"]["annotations"].as_object_mut().unwrap();
    annotations.remove("podtap.dev/interface");
    annotations.insert("podtap.dev/netns".to_owned(), a.netns_path().to_str().unwrap().into());
    agent.apply("a.yaml", &one).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, 9000, 10).run().unwrap();
    Flood::new(c, b, 9000, 10).run().unwrap();
    agent.remove("a.yaml").unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.packets(), 10);
    assert_eq!(record.json()["status"]["interface"], a.host_interface.as_str());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_place_that_is_not_there_yet_ends_the_capture_of_the_one_before() {
    let pods = Pods::with(&["a", "b", "c"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, 9000).unwrap();
    pods.disconnect(c).unwrap();
    let mut agent = Agent::start("moved").unwrap();
    agent.apply("a.yaml", &labelled(a, &FILTER)).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, 9000, 10).run().unwrap();
    // From now on the pod's interface is what pod c has here, and its old one is somebody else's.
    let mut moved = labelled(a, &FILTER);
    moved["metadata"]["annotations"]["podtap.dev/interface"] = c.host_interface.as_str().into();
    agent.apply("a.yaml", &moved).unwrap();
    let record = agent.wait_pod("a", &["Pending"]).unwrap();
    assert!(record.message().contains(&c.host_interface), "{}", record.message());
    Flood::new(a, b, 9000, 100).run().unwrap();
    pods.connect(c).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, 9000, 100).run().unwrap();
    Flood::new(c, b, 9000, 20).run().unwrap();
    agent.remove("a.yaml").unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.numbers(9000).unwrap(), (0..10).chain(0..20).collect::<Vec<u64>>());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn nothing_stays_on_the_interface() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let a = pods.pod("a");
    let attached = || Attached::on(&a.host_interface).unwrap();
    for mode in ["Tcx", "Socket"] {
        let mut agent = Agent::start_with("clean", &format!("attachMode: {mode}\n"), &[]).unwrap();
        if mode == "Tcx" && !tcx_exists().unwrap() {
            // It says why, instead of capturing nothing.
            assert!(!agent.process().wait(SOON).unwrap().success());
            assert!(agent.log().contains("tcx"), "{}", agent.log());
            continue;
        }
        for end in ["label", "stop", "kill"] {
            if end == "kill" {
                agent.start_again().unwrap();
            }
            agent.apply("a.yaml", &labelled(a, &FILTER)).unwrap();
            agent
                .wait("a run", SOON, |records| {
                    let now = records.iter().find(|record| ATTACHED.contains(&record.state()))?;
                    (now.attach_mode() == mode).then_some(())
                })
                .unwrap();
            let now = attached();
            assert_eq!((now.tcx > 0, now.sockets > 0), (mode == "Tcx", mode == "Socket"), "{now:?}");
            match end {
                "label" => {
                    agent.apply("a.yaml", &pod(a)).unwrap();
                    agent
                        .wait("its end", SOON, |records| records.iter().all(|r| r.is_over()).then_some(()))
                        .unwrap();
                }
                "stop" => assert!(agent.stop().unwrap().success()),
                _ => agent.kill(),
            }
            assert!(!attached().any(), "{mode}, after {end}: {:?}", attached());
        }
    }
}
