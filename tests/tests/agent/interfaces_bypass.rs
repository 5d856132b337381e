//! Why a capture is empty, or half of a conversation: the record says so.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::tcx_exists;
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::record::Record;
use podtap_tests::redirect::Redirect;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

/// Counters are compared every ten seconds.
const COMPARED: Duration = Duration::from_secs(25);

fn notes(record: &Record) -> String {
    record.json()["status"]["notes"].to_string()
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn half_a_conversation_is_told_from_a_whole_one() {
    if !tcx_exists().unwrap() {
        eprintln!("needs tcx (Linux 6.6) to redirect");
        return;
    }
    let pods = Pods::with(&["a", "b", "c"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sinks = [sink(a, 9000).unwrap(), sink(b, 9000).unwrap(), sink(c, 9000).unwrap()];
    let mut agent = Agent::start("half").unwrap();
    // Two that a CNI redirects to, of which one never sends, and one that it leaves alone.
    let captures =
        [("half", "b", "Both"), ("nothing", "b", "ToPod"), ("sent", "b", "FromPod"), ("whole", "c", "Both")];
    for one in [b, c] {
        agent.apply(&format!("{}.yaml", one.name), &pod(one)).unwrap();
    }
    for (name, of, direction) in captures {
        let spec = json!({"podNames": [of], "direction": direction, "filter": "udp port 9000"});
        agent.apply(&format!("{name}.capture.yaml"), &packet_capture(name, spec)).unwrap();
    }
    for (name, ..) in captures {
        agent.wait_capture(name, &ATTACHED).unwrap();
    }
    // The counters of before are taken a second after the tap is there.
    std::thread::sleep(Duration::from_secs(5));
    {
        let _redirect = Redirect::start(a, b).unwrap();
        Flood::new(a, b, 9000, 500).run().unwrap();
        Flood::new(b, a, 9000, 500).run().unwrap();
    }
    Flood::new(c, b, 9000, 5).run().unwrap();
    Flood::new(b, c, 9000, 500).run().unwrap();
    let record = agent
        .wait("half a conversation to be noticed", COMPARED, |records| {
            records.iter().find(|one| one.capture() == "half" && one.reason() == "OneDirectionOnly").cloned()
        })
        .unwrap();
    assert_eq!((record.state(), record.from_pod().matched, record.to_pod().matched), ("Capturing", 1000, 5));
    assert!(record.message().contains("Packets to the pod do not pass"), "{}", record.message());
    let record = agent
        .wait("the other to be noticed", COMPARED, |records| {
            records.iter().find(|one| one.capture() == "nothing" && one.reason() != "Capturing").cloned()
        })
        .unwrap();
    assert_eq!(record.reason(), "TrafficBypassesInterface", "{}", record.json());
    for (name, ..) in captures {
        agent.remove(&format!("{name}.capture.yaml")).unwrap();
    }
    for (name, told) in [("half", true), ("nothing", true), ("sent", false), ("whole", false)] {
        let record = agent.wait_capture(name, &["Stopped"]).unwrap();
        assert_eq!(
            notes(&record).contains("do not pass its host interface"),
            told,
            "{name}: {}",
            notes(&record)
        );
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_empty_capture_says_why() {
    let pods = Pods::with(&["a", "b", "idle"]).unwrap();
    let (a, b, idle) = (pods.pod("a"), pods.pod("b"), pods.pod("idle"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("empty").unwrap();
    agent.apply("a.yaml", &labelled(a, &[("filter", "tcp port 1")])).unwrap();
    agent.apply("idle.yaml", &labelled(idle, &[("filter", "udp port 9000")])).unwrap();
    for name in ["a", "idle"] {
        agent.wait_pod(name, &ATTACHED).unwrap();
    }
    Flood::new(a, b, 9000, 100).run().unwrap();
    let record = agent
        .wait("it to say that nothing matched", SOON, |records| {
            records.iter().find(|one| one.pod() == "a" && one.reason() == "FilterMatchedNone").cloned()
        })
        .unwrap();
    assert!(record.message().contains("The filter accepted none of"), "{}", record.message());
    agent.apply("a.yaml", &pod(a)).unwrap();
    agent.apply("idle.yaml", &pod(idle)).unwrap();
    for (name, why) in [("a", "The filter accepted none of"), ("idle", "packet")] {
        let record = agent.wait_pod(name, &["Stopped"]).unwrap();
        assert!(notes(&record).contains(why), "{name}: {}", notes(&record));
        assert_eq!(record.packets(), 0);
    }
}
