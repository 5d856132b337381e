//! A request that changes while packets flow.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::traffic::{Flood, numbers, sink};
use serde_json::json;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_changed_annotation_takes_effect_without_a_gap_in_a_new_file() {
    const PACKETS: u64 = 800_000;
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sinks = [sink(a, 9001).unwrap(), sink(b, 9000).unwrap()];
    let mut agent = Agent::start("change").unwrap();
    agent.apply("a.yaml", &labelled(a, &[("filter", "udp port 9000 or udp port 9001")])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    // On both cores at once, as fast as they go.
    let out = Flood { cpu: Some(0), ..Flood::new(a, b, 9000, PACKETS) }.start().unwrap();
    let inside = Flood { cpu: Some(1), ..Flood::new(b, a, 9001, PACKETS) }.start().unwrap();
    for change in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        let snap = (200 + change).to_string();
        let annotations = [("filter", "udp portrange 9000-9001"), ("snap-length", snap.as_str())];
        agent.apply("a.yaml", &labelled(a, &annotations)).unwrap();
        agent
            .wait("a new file", podtap_tests::agent::SOON, |records| {
                (records.first()?.files().len() >= change + 2).then_some(())
            })
            .unwrap();
    }
    assert_eq!((out.wait().unwrap().packets, inside.wait().unwrap().packets), (PACKETS, PACKETS));
    agent.apply("a.yaml", &pod(a)).unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!((record.from_pod().matched, record.to_pod().matched), (PACKETS, PACKETS));
    assert_eq!(record.packets() + record.dropped(), 2 * PACKETS);
    let files = record.read().unwrap();
    for port in [9000, 9001] {
        let numbers: Vec<u64> = files.iter().flat_map(|file| numbers(&file.packets, port)).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "port {port}: a packet twice or out of order");
    }
    let mut snaps: Vec<u32> = files.iter().map(|file| file.snap_length).collect();
    snaps.dedup();
    assert_eq!(snaps[1..], [200, 201, 202], "each change has its file");
    assert_eq!(files.iter().map(|file| file.packets.len() as u64).sum::<u64>(), record.packets());
}

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
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("label").unwrap();
    let filter = [("filter", "udp port 9000")];
    agent.apply("a.yaml", &labelled(a, &filter)).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, 9000, 50).run().unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let first = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert!(!first.message().is_empty() && !first.reason().is_empty());
    Flood::new(a, b, 9000, 60).run().unwrap();
    agent.apply("a.yaml", &labelled(a, &filter)).unwrap();
    let second = agent
        .wait("a second run", podtap_tests::agent::SOON, |records| {
            records.iter().find(|record| ATTACHED.contains(&record.state())).cloned()
        })
        .unwrap();
    assert_ne!(first.name(), second.name());
    Flood::new(a, b, 9000, 70).run().unwrap();
    agent.remove("a.yaml").unwrap();
    let records = agent
        .wait("both to be over", podtap_tests::agent::SOON, |records| {
            records.iter().all(|record| record.state() == "Stopped").then(|| records.to_vec())
        })
        .unwrap();
    let mut counts: Vec<usize> = records.iter().map(|record| record.numbers(9000).unwrap().len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [50, 70]);
}
