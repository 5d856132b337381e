//! Files: rotation, copies while they grow, retention.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::blocks;
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn rotation_by_size_keeps_the_newest_files_and_loses_nothing_between_them() {
    const PACKETS: u64 = 20_000;
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("rotate").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let rotation = [("all", json!({"fileBytes": "1Mi"})), ("some", json!({"fileBytes": "1Mi", "files": 3}))];
    for (name, rotation) in rotation {
        let spec = json!({"podNames": ["a"], "filter": "udp port 9000", "rotation": rotation});
        agent.apply(&format!("{name}.yaml"), &packet_capture(name, spec)).unwrap();
        agent.wait_capture(name, &ATTACHED).unwrap();
    }
    Flood { frame: 1000, rate: Some(20_000), ..Flood::new(a, b, 9000, PACKETS) }.run().unwrap();
    for name in ["all", "some"] {
        agent.remove(&format!("{name}.yaml")).unwrap();
        let record = agent.wait_capture(name, &["Stopped"]).unwrap();
        assert_eq!((record.packets(), record.dropped()), (PACKETS, 0), "{name}");
        let numbers = record.numbers(9000).unwrap();
        let files = record.files();
        let first = if name == "all" {
            assert!((19..=22).contains(&files.len()), "{} files of 1 MiB", files.len());
            0
        } else {
            assert_eq!(files.len(), 3);
            PACKETS - numbers.len() as u64
        };
        assert_eq!(numbers, (first..PACKETS).collect::<Vec<_>>(), "{name}");
        let on_disk = std::fs::read_dir(record.directory()).unwrap().filter(|entry| {
            entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "pcapng")
        });
        assert_eq!(on_disk.count(), files.len());
        for file in &files {
            assert!(file.metadata().unwrap().len() <= 1 << 20, "{}", file.display());
            assert!(!blocks::read(file).unwrap().statistics.is_empty(), "each ends with its statistics");
        }
        agree(&files[1]).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn rotation_by_time_loses_nothing() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("interval").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let spec = json!({"podNames": ["a"], "filter": "udp port 9000", "rotation": {"interval": "1s"}});
    agent.apply("c.yaml", &packet_capture("c", spec)).unwrap();
    agent.wait_capture("c", &ATTACHED).unwrap();
    Flood { rate: Some(2_000), ..Flood::new(a, b, 9000, 7_000) }.run().unwrap();
    agent.remove("c.yaml").unwrap();
    let record = agent.wait_capture("c", &["Stopped"]).unwrap();
    assert_eq!(record.numbers(9000).unwrap(), (0..7_000).collect::<Vec<u64>>());
    assert!((3..=5).contains(&record.files().len()), "{:?}", record.files());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_copy_at_any_moment_is_whole_and_at_most_a_second_old() {
    const RATE: u64 = 20_000;
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("copy").unwrap();
    agent.apply("a.yaml", &labelled(a, &[("filter", "udp port 9000")])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    let copy = agent.home().join("copy.pcapng");
    // A quiet one, then a fast one.
    for (round, (rate, frame)) in [(100, 64), (RATE, 1400)].into_iter().enumerate() {
        let port = 9000;
        let sending = Flood { rate: Some(rate), frame, ..Flood::new(a, b, port, rate * 3) }.start().unwrap();
        let mut largest = 0;
        for moment in 0..25 {
            std::thread::sleep(Duration::from_millis(70 + moment * 3));
            let Some(file) = agent.records().unwrap()[0].files().pop() else { continue };
            std::fs::copy(&file, &copy).unwrap();
            let packets = blocks::read(&copy).unwrap().packets.len();
            assert!(packets >= largest, "a copy has fewer packets than one before");
            largest = packets;
            if moment % 8 == 0 {
                agree(&copy).unwrap();
            }
        }
        sending.wait().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        let record = agent.wait_pod("a", &["Capturing"]).unwrap();
        let numbers = record.numbers(port).unwrap();
        let expected = if round == 0 { 300 } else { 300 + RATE * 3 };
        assert_eq!(numbers.len() as u64 + record.dropped(), expected, "a second later all are there");
    }
    std::fs::remove_file(copy).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn files_and_record_go_when_retention_ends() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("retention").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    for (name, retention) in [("short", "3s"), ("long", "1h")] {
        let spec = json!({
            "podNames": ["a"], "filter": "udp port 9000", "duration": "1s", "retention": retention,
        });
        agent.apply(&format!("{name}.yaml"), &packet_capture(name, spec)).unwrap();
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
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("about").unwrap();
    agent.apply("a.yaml", &labelled(a, &[("filter", "udp port 9000")])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, 9000, 10).run().unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
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
