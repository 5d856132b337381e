//! What is kept of a pod's traffic, and when a capture ends by itself.

use std::time::{Duration, SystemTime};

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::manifest::{label, labelled, packet_capture, pod};
use podtap_tests::metrics::{Metrics, free_address};
use podtap_tests::pods::Pods;
use podtap_tests::stalls::Stalls;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

use super::captured::{Captured, FILTER, PORT};

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_limit_of_packets_is_exact() {
    let mut captured = Captured::by_label("packets", &[], &[("max-packets", "100")]);
    captured.send(20_000);
    let record = captured.agent.wait_pod("a", &["Completed"]).unwrap();
    assert_eq!(record.packets(), 100);
    let counted = record.packets() + record.dropped() + record.beyond_limit();
    assert_eq!(record.from_pod().matched, counted, "{}", record.json());
    assert_eq!(record.numbers(PORT).unwrap(), (0..100).collect::<Vec<u64>>());
    assert_eq!(record.files().len(), 1);
    assert_eq!(agree(&record.files()[0]).unwrap(), 100);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_limit_of_bytes_is_kept() {
    let mut captured = Captured::by_label("bytes", &[], &[("max-bytes", "1Mi")]);
    Flood { frame: 1000, ..captured.flood(captured.pods.pod("a"), 10_000) }.run().unwrap();
    let record = captured.agent.wait_pod("a", &["Completed"]).unwrap();
    let bytes: u64 = record.files().iter().map(|file| file.metadata().unwrap().len()).sum();
    assert_eq!(bytes, record.bytes());
    let counted = record.packets() + record.dropped() + record.beyond_limit();
    assert_eq!(record.from_pod().matched, counted, "{}", record.json());
    assert!((900 << 10..=1 << 20).contains(&bytes), "{bytes}");
    let numbers = record.numbers(PORT).unwrap();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_capture_ends_with_its_duration() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start("duration").unwrap();
    let stalls = Stalls::watch();
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let asked = now();
    agent.apply("a.yaml", &labelled(a, &[FILTER, ("duration", "2s")])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    let known = now();
    Flood { rate: Some(1000), ..Flood::new(a, b, PORT, 5000) }.run().unwrap();
    let record = agent.wait_pod("a", &["Completed"]).unwrap();
    let stalled = stalls.so_far();
    let numbers = record.numbers(PORT).unwrap();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    let files = record.read().unwrap();
    let last = Duration::from_nanos(files.last().unwrap().packets.last().unwrap().time);
    // The agent looks ten times a second, and the sender's clock is the node's.
    let (asked_for, looked) = (Duration::from_secs(2), Duration::from_millis(300));
    assert!(last + looked + stalled >= asked + asked_for, "{last:?} of {asked:?}");
    assert!(last <= known + asked_for + looked + stalled, "{last:?} of {known:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn direction_and_snap_length_are_as_asked() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sinks = [sink(a, PORT).unwrap(), sink(b, PORT).unwrap()];
    let mut agent = Agent::start("direction").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    for (name, direction) in [("from", "FromPod"), ("to", "ToPod"), ("both", "Both")] {
        let spec = json!({
            "podNames": ["a"], "filter": FILTER.1, "direction": direction, "snapLength": 100,
        });
        agent.apply(&format!("{name}.yaml"), &packet_capture(name, spec)).unwrap();
        agent.wait_capture(name, &ATTACHED).unwrap();
    }
    Flood { frame: 500, ..Flood::new(a, b, PORT, 300) }.run().unwrap();
    Flood { frame: 60, ..Flood::new(b, a, PORT, 200) }.run().unwrap();
    for (name, out, inside) in [("from", 300, 0), ("to", 0, 200), ("both", 300, 200)] {
        agent.remove(&format!("{name}.yaml")).unwrap();
        let record = agent.wait_capture(name, &["Stopped"]).unwrap();
        let packets = record.read().unwrap().remove(0).packets;
        let count = |outbound: bool, original: u32, kept: usize| {
            let same = |p: &&podtap_tests::blocks::Packet| {
                (p.outbound, p.original, p.data.len()) == (outbound, original, kept)
            };
            packets.iter().filter(same).count()
        };
        assert_eq!((count(true, 500, 100), count(false, 60, 60)), (out, inside), "{name}");
        assert_eq!(packets.len(), out + inside, "{name}");
        assert_eq!((record.from_pod().captured, record.to_pod().captured), (out as u64, inside as u64));
        assert_eq!(record.from_pod().bytes, 500 * out as u64, "on the wire");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_schedule_is_kept() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start("schedule").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let start = podtap_tests::process::output(std::process::Command::new("date").args([
        "-u",
        "-d",
        "+5 seconds",
        "+%FT%TZ",
    ]));
    let spec = json!({
        "podNames": ["a"], "filter": FILTER.1, "startTime": start.unwrap().trim(), "duration": "5s",
    });
    agent.apply("later.yaml", &packet_capture("later", spec)).unwrap();
    agent.wait_capture("later", &["Scheduled"]).unwrap();
    Flood::new(a, b, PORT, 10).run().unwrap();
    agent.wait_capture("later", &ATTACHED).unwrap();
    Flood::new(a, b, PORT, 20).run().unwrap();
    let record = agent.wait_capture("later", &["Completed"]).unwrap();
    assert_eq!(record.numbers(PORT).unwrap(), (0..20).collect::<Vec<u64>>());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(agent.records().unwrap().len(), 1);
}

/// Whoever may ask can ask for thousands of captures: little is kept of those that are refused, and others are not hurt.
#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn of_many_refused_captures_few_are_kept() {
    const CAPTURES: usize = 500;
    /// Those at once, and refused ones.
    const MOST: usize = 4 + 32;
    let pods = Pods::with(&["a"]).unwrap();
    let address = free_address().unwrap();
    let mut agent = Agent::start_with("refused", &format!("httpAddress: {address}\n"), &[]).unwrap();
    agent.wait_ready().unwrap();
    agent.apply("a.yaml", &pod(pods.pod("a"))).unwrap();
    let ask = |agent: &Agent, file: &str, kind: &str| {
        let many = (0..CAPTURES).map(|number| {
            let spec = json!({"podNames": ["a"], "filter": FILTER.1});
            packet_capture(&format!("{kind}{number}"), spec).to_string()
        });
        agent.write(file, &many.collect::<Vec<_>>().join("\n---\n")).unwrap();
    };
    let turned_away = || {
        let metrics = Metrics::scrape(address).unwrap();
        metrics.count("podtap_runs_turned_away", &[("namespace", "default")]).unwrap_or(0)
    };
    let runs = |agent: &Agent| std::fs::read_dir(agent.data_dir().join("default")).unwrap().count();
    ask(&agent, "many.yaml", "c");
    agent
        .wait("most to be turned away", SOON, |_| (turned_away() as usize == CAPTURES - MOST).then_some(()))
        .unwrap();
    let records = agent.records().unwrap();
    assert_eq!((records.len(), runs(&agent)), (MOST, MOST));
    let refused = records.iter().filter(|record| record.reason() == "TooManyCaptures").count();
    assert_eq!(refused, MOST - 4);
    let mut other = pod(pods.pod("a"));
    other["metadata"]["namespace"] = json!("team-b");
    other["metadata"]["uid"] = json!("other");
    agent.apply("b.yaml", &label(other, "podtap.dev/capture", "true")).unwrap();
    agent
        .wait("another namespace's", SOON, |records| {
            records
                .iter()
                .any(|record| record.namespace() == "team-b" && ATTACHED.contains(&record.state()))
                .then_some(())
        })
        .unwrap();
    // Those that take the place of what is gone are told of, and there are no more than before.
    agent.remove("many.yaml").unwrap();
    agent.wait("none to be wanted", SOON, |_| (turned_away() == 0).then_some(())).unwrap();
    ask(&agent, "more.yaml", "d");
    agent.wait("most to be turned away", SOON, |_| (turned_away() > 0).then_some(())).unwrap();
    agent
        .wait("the new ones to have taken the place of the old", SOON, |records| {
            let own = records.iter().filter(|record| record.namespace() == "default");
            let new =
                own.clone().filter(|record| record.state() == "Refused" && record.capture().starts_with('d'));
            (new.count() == MOST - 4 && own.count() == MOST + 4).then_some(())
        })
        .unwrap();
    assert_eq!(runs(&agent), MOST + 4, "and four that were stopped");
}
