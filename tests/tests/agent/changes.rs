//! A request that changes while packets flow.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

use super::captured::{Captured, FILTER};

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_capture_pauses_goes_on_and_stops() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sinks = [9000, 9001, 9002, 9003].map(|port| sink(b, port).unwrap());
    let mut agent = Agent::start("pause").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    for (port, state, shown) in
        [(9000, "Running", &ATTACHED[..]), (9001, "Paused", &["Paused"]), (9002, "Running", &ATTACHED)]
    {
        let spec = json!({"podNames": ["a"], "filter": "udp", "state": state});
        agent.apply("c.yaml", &packet_capture("c", spec)).unwrap();
        agent.wait_capture("c", shown).unwrap();
        Flood::new(a, b, port, 100).run().unwrap();
        std::thread::sleep(Duration::from_millis(300));
    }
    let spec = json!({"podNames": ["a"], "filter": "udp", "state": "Stopped"});
    agent.apply("c.yaml", &packet_capture("c", spec)).unwrap();
    agent.wait_capture("c", &["Stopped"]).unwrap();
    Flood::new(a, b, 9003, 100).run().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let record = agent.wait_capture("c", &["Stopped"]).unwrap();
    let counts = [9000, 9001, 9002, 9003].map(|port| record.numbers(port).unwrap().len());
    assert_eq!(counts, [100, 0, 100, 0]);
    assert_eq!(record.packets(), 200);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn removing_the_label_stops_and_labelling_again_is_another_run() {
    let mut captured = Captured::by_label("label", &[], &[]);
    captured.send(50);
    let first = captured.unlabel();
    assert!(!first.message().is_empty() && !first.reason().is_empty());
    captured.send(60);
    captured.agent.apply("a.yaml", &labelled(captured.pods.pod("a"), &[FILTER])).unwrap();
    let second = captured
        .agent
        .wait("a second run", podtap_tests::agent::SOON, |records| {
            records.iter().find(|record| ATTACHED.contains(&record.state())).cloned()
        })
        .unwrap();
    assert_ne!(first.name(), second.name());
    captured.send(70);
    captured.agent.remove("a.yaml").unwrap();
    let records = captured
        .agent
        .wait("both to be over", podtap_tests::agent::SOON, |records| {
            records.iter().all(|record| record.state() == "Stopped").then(|| records.to_vec())
        })
        .unwrap();
    let mut counts: Vec<usize> = records.iter().map(|record| record.numbers(9000).unwrap().len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [50, 70]);
}
