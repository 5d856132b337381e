//! Files: rotation, retention, what they say.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::blocks;
use podtap_tests::manifest::{packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::stalls::Stalls;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

use super::captured::Captured;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn rotation_by_time_loses_nothing() {
    let mut captured = Captured::by_capture("interval", json!({"rotation": {"interval": "1s"}}));
    let stalls = Stalls::watch();
    Flood { rate: Some(2_000), ..captured.flood(captured.pods.pod("a"), 7_000) }.run().unwrap();
    let record = captured.remove_capture();
    assert_eq!(record.numbers(9000).unwrap(), (0..7_000).collect::<Vec<u64>>());
    // Three seconds and a half, in files of a second each.
    let stalled: u64 = stalls.so_far().as_nanos().try_into().unwrap();
    assert!(record.files().len() >= 3 || stalled > 200_000_000, "{:?}", record.files());
    for file in record.read().unwrap() {
        let (first, last) = (file.packets.first().unwrap().time, file.packets.last().unwrap().time);
        assert!(last - first < 1_500_000_000 + stalled, "packets of {} ns", last - first);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn files_and_record_go_when_retention_ends() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("retention").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    for (name, retention) in [("short", "5s"), ("long", "1h")] {
        let spec = json!({
            "podNames": ["a"], "filter": "udp port 9000", "duration": "4s", "retention": retention,
        });
        agent.apply(&format!("{name}.yaml"), &packet_capture(name, spec)).unwrap();
    }
    for name in ["short", "long"] {
        agent.wait_capture(name, &ATTACHED).unwrap();
    }
    Flood::new(a, b, 9000, 10).run().unwrap();
    let short = agent.wait_capture("short", &["Completed"]).unwrap();
    assert!(short.directory().exists());
    agent.wait("the short one to go", SOON, |records| (records.len() == 1).then_some(())).unwrap();
    // What is left, as long as the request stands, is the note that it was carried out.
    let left: Vec<_> =
        std::fs::read_dir(short.directory()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["run.json"]);
    let long = agent.wait_capture("long", &["Completed"]).unwrap();
    assert_eq!(long.numbers(9000).unwrap().len(), 10);
    // The manifest is still there, and the window is over: nothing begins again.
    agent.stop().unwrap();
    agent.start_again().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(agent.records().unwrap().len(), 1);
    agent.remove("short.yaml").unwrap();
    agent.wait("the note to go", SOON, |_| (!short.directory().exists()).then_some(())).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_file_says_where_it_comes_from_and_is_its_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let mut captured = Captured::by_label("about", &[], &[]);
    captured.send(10);
    let record = captured.unlabel();
    let a = captured.pods.pod("a");
    let file = &record.files()[0];
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(file), mode(&record.directory())), (0o600, 0o700));
    let blocks = blocks::read(file).unwrap();
    // Interface name and description (options 2 and 3), and its filter (11, whose first byte says "text").
    assert!(blocks.texts(2).iter().any(|name| name.contains(&a.host_interface)), "{:?}", blocks.texts(2));
    assert!(blocks.texts(3).iter().any(|text| text == "default/a"), "{:?}", blocks.texts(3));
    assert!(blocks.texts(11).iter().any(|text| text == "\0udp port 9000"), "{:?}", blocks.texts(11));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    for packet in &blocks.packets {
        let age = now.as_nanos() as i128 - i128::from(packet.time);
        assert!((0..60_000_000_000).contains(&age), "stamped {age} ns ago");
    }
    assert!(blocks.packets.is_sorted_by_key(|packet| packet.time));
}
