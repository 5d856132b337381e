//! A request that changes under a flood.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::Attached;
use podtap_tests::manifest::{labelled, pod};
use podtap_tests::pods::Pods;
use podtap_tests::traffic::{Flood, numbers, sink};

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
    // On both cores at once, and for so long that they go on when the last change comes, however late that is.
    let rate = Some(200_000);
    let out = Flood { rate, cpu: Some(0), ..Flood::new(a, b, 9000, PACKETS) }.start().unwrap();
    let inside = Flood { rate, cpu: Some(1), ..Flood::new(b, a, 9001, PACKETS) }.start().unwrap();
    for change in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        let snap = (200 + change).to_string();
        let annotations = [("filter", "udp portrange 9000-9001"), ("snap-length", snap.as_str())];
        agent.apply("a.yaml", &labelled(a, &annotations)).unwrap();
        agent
            .wait("a new file", SOON, |records| (records.first()?.files().len() >= change + 2).then_some(()))
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
fn an_interface_that_goes_while_a_changed_tap_takes_over_is_let_go() {
    // So many that most wait for their turn when their interfaces go.
    let names: Vec<String> = (0..24).map(|number| format!("p{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).chain(["b"]).collect();
    let pods = Pods::with(&all).unwrap();
    let b = pods.pod("b");
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start_with("cut", "caps: {capturesPerNamespace: 100}\n", &[]).unwrap();
    let wait_all = |agent: &mut Agent, what: &str, pods: &Pods| {
        agent
            .wait(what, SOON, |records| {
                let good = records.iter().filter(|record| {
                    let pod = pods.pod(record.pod());
                    ATTACHED.contains(&record.state())
                        && Attached::on(&pod.host_interface).is_ok_and(Attached::any)
                });
                (good.count() == names.len()).then_some(())
            })
            .unwrap();
    };
    for round in 0..3 {
        // The first time these are new captures, afterwards changes.
        let snap = (200 + round).to_string();
        for name in &names {
            let annotations = [("filter", "udp port 9000"), ("snap-length", snap.as_str())];
            agent.apply(&format!("{name}.yaml"), &labelled(pods.pod(name), &annotations)).unwrap();
        }
        if round > 0 {
            std::thread::sleep(Duration::from_millis(60));
            // They take over in their order: the last ones wait longest.
            names.iter().rev().for_each(|name| pods.disconnect(pods.pod(name)).unwrap());
            names.iter().for_each(|name| pods.connect(pods.pod(name)).unwrap());
        }
        wait_all(&mut agent, "all to be tapped", &pods);
    }
    for name in &names {
        Flood::new(pods.pod(name), b, 9000, 10).run().unwrap();
        agent.remove(&format!("{name}.yaml")).unwrap();
    }
    let records = agent
        .wait("all to be over", SOON, |records| {
            records.iter().all(|record| record.state() == "Stopped").then(|| records.to_vec())
        })
        .unwrap();
    for record in records {
        assert_eq!(record.numbers(9000).unwrap(), (0..10).collect::<Vec<u64>>(), "{}", record.pod());
    }
}
