//! A request that changes under a flood.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent};
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
