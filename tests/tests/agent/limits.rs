//! What is kept of a pod's traffic, and when a capture ends by itself.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

const PORT: u16 = 9000;
const FILTER: (&str, &str) = ("filter", "udp port 9000");

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_limit_of_packets_is_exact() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start("packets").unwrap();
    agent.apply("a.yaml", &labelled(a, &[FILTER, ("max-packets", "100")])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, PORT, 20_000).run().unwrap();
    let record = agent.wait_pod("a", &["Completed"]).unwrap();
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
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start("bytes").unwrap();
    agent.apply("a.yaml", &labelled(a, &[FILTER, ("max-bytes", "1Mi")])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood { frame: 1000, ..Flood::new(a, b, PORT, 10_000) }.run().unwrap();
    let record = agent.wait_pod("a", &["Completed"]).unwrap();
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
    agent.apply("a.yaml", &labelled(a, &[FILTER, ("duration", "2s")])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    let sent = Flood { rate: Some(1000), ..Flood::new(a, b, PORT, 4000) }.run().unwrap();
    let record = agent.wait_pod("a", &["Completed"]).unwrap();
    let numbers = record.numbers(PORT).unwrap();
    // Attaching and looking takes part of the two seconds.
    assert!((1000..2100).contains(&numbers.len()), "{} of {sent:?}", numbers.len());
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
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
        "+4 seconds",
        "+%FT%TZ",
    ]));
    let spec = json!({
        "podNames": ["a"], "filter": FILTER.1, "startTime": start.unwrap().trim(), "duration": "2s",
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
