//! Changes that cannot be had as they are asked for: what is captured is what the record says, and never what may not be.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::Attached;
use podtap_tests::manifest::{annotate, labelled, packet_capture, pod};
use podtap_tests::pods::{Pod, Pods};
use podtap_tests::record::Record;
use podtap_tests::traffic::{Flood, HEADERS, sink};
use serde_json::{Value, json};

const PORT: u16 = 9000;
const FILTER: &str = "udp port 9000";
const FRAME: usize = 500;

/// Sends ten packets of [`FRAME`] bytes.
fn send(from: &Pod, to: &Pod) {
    Flood { frame: FRAME, ..Flood::new(from, to, PORT, 10) }.run().unwrap();
    // Whatever comes now comes after them.
    std::thread::sleep(Duration::from_millis(300));
}

/// Bytes kept of each packet, in the order of the files.
fn kept(record: &Record) -> Vec<usize> {
    record.read().unwrap().iter().flat_map(|file| &file.packets).map(|packet| packet.data.len()).collect()
}

fn notes(record: &Record) -> String {
    record.json()["status"]["notes"].to_string()
}

fn setting<'a>(record: &'a Record, name: &str) -> &'a Value {
    &record.json()["spec"]["settings"][name]
}

/// Waits until the record of that capture is so.
fn wait_until(agent: &mut Agent, capture: &str, what: &str, so: impl Fn(&Record) -> bool) -> Record {
    let own =
        |records: &[Record]| records.iter().find(|record| record.capture() == capture && so(record)).cloned();
    agent.wait(&format!("{capture}: {what}"), SOON, own).unwrap()
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_bad_filter_keeps_nothing_else_of_a_change_from_being_in_force() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start("bad-filter").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let ask = |agent: &Agent, filter: &str, headers_only: bool| {
        let spec = json!({"podNames": ["a"], "filter": filter, "headersOnly": headers_only});
        agent.apply("c.yaml", &packet_capture("c", spec)).unwrap();
    };
    ask(&agent, FILTER, false);
    agent.wait_capture("c", &ATTACHED).unwrap();
    ask(&agent, "udp porrt 9000", false);
    let told =
        wait_until(&mut agent, "c", "the filter to be refused", |record| notes(record).contains("porrt"));
    assert_eq!(setting(&told, "filter"), FILTER, "the record shows what is in force");
    send(a, b);
    ask(&agent, "udp porrt 9000", true);
    let tight = wait_until(&mut agent, "c", "headers only", |record| *setting(record, "headersOnly") == true);
    assert!(notes(&tight).contains("porrt") && setting(&tight, "filter") == FILTER, "{}", tight.json());
    send(a, b);
    // In the end the filter is mended, and nothing is left to be said.
    ask(&agent, "udp port 9000 and udp", true);
    wait_until(&mut agent, "c", "the mended filter", |record| {
        *setting(record, "filter") == "udp port 9000 and udp" && !notes(record).contains("porrt")
    });
    agent.remove("c.yaml").unwrap();
    let record = agent.wait_capture("c", &["Stopped"]).unwrap();
    assert_eq!(kept(&record), [[FRAME; 10], [HEADERS; 10]].concat());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn without_memory_for_another_ring_a_tighter_change_holds_all_the_same_and_others_wait() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let configuration = "memoryBudget: 16Mi\ncaps: {capturesPerNamespace: 100}\n";
    let mut agent = Agent::start_with("no-rings", configuration, &[]).unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let ask = |agent: &Agent, name: &str, filter: &str, headers_only: bool| {
        let spec = json!({"podNames": ["a"], "filter": filter, "headersOnly": headers_only});
        agent.apply(&format!("{name}.yaml"), &packet_capture(name, spec)).unwrap();
    };
    // Until there is no ring left.
    let mut asked = 0;
    let mut fill = |agent: &mut Agent| loop {
        let name = format!("c{asked}");
        asked += 1;
        assert!(asked < 50);
        ask(agent, &name, FILTER, false);
        let record = agent.wait_capture(&name, &[ATTACHED[0], ATTACHED[1], "Refused"]).unwrap();
        if record.state() == "Refused" {
            assert_eq!(record.reason(), "BudgetExhausted", "{}", record.message());
            break asked;
        }
    };
    assert!(fill(&mut agent) > 3);
    send(a, b);
    let tapped = || {
        let Attached { tcx, sockets } = Attached::on(&a.host_interface).unwrap();
        tcx / 2 + sockets
    };
    let all = tapped();
    ask(&agent, "c0", FILTER, true);
    wait_until(&mut agent, "c0", "headers only", |record| *setting(record, "headersOnly") == true);
    // Its tap was taken off for it: here comes the next one.
    std::thread::sleep(Duration::from_secs(1));
    agent.wait("the next tap", SOON, |_| (tapped() == all).then_some(())).unwrap();
    fill(&mut agent);
    // What is only other, and not tighter, waits for room, and what is captured goes on meanwhile.
    ask(&agent, "c1", "udp port 9001", false);
    let waits = wait_until(&mut agent, "c1", "no room", |record| notes(record).contains("memory budget"));
    assert_eq!((setting(&waits, "filter"), waits.state()), (&json!(FILTER), "Capturing"));
    send(a, b);
    agent.remove("c2.yaml").unwrap();
    wait_until(&mut agent, "c1", "the other filter", |record| {
        *setting(record, "filter") == "udp port 9001" && !notes(record).contains("memory budget")
    });
    send(a, b);
    for name in ["c0", "c1"] {
        agent.remove(&format!("{name}.yaml")).unwrap();
        let record = agent.wait_capture(name, &["Stopped"]).unwrap();
        let expected = match name {
            "c0" => [vec![FRAME; 10], vec![HEADERS; 20]].concat(),
            _ => vec![FRAME; 20],
        };
        assert_eq!(kept(&record), expected, "{name}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn caps_are_kept_by_a_capture_whose_request_cannot_be_read_any_more() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start_with("caps", "caps: {snapLength: 400}\n", &[]).unwrap();
    let whole = labelled(a, &[("filter", FILTER)]);
    agent.apply("a.yaml", &whole).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    agent.apply("a.yaml", &annotate(whole, &[("oops", "1")])).unwrap();
    wait_until(&mut agent, "", "the change to be refused", |record| {
        notes(record).contains("podtap.dev/oops")
    });
    send(a, b);
    agent.stop().unwrap();
    std::fs::write(agent.home().join("config.yaml"), "caps: {headersOnly: true}\n").unwrap();
    agent.start_again().unwrap();
    let tight = wait_until(&mut agent, "", "headers only", |record| {
        *setting(record, "headersOnly") == true && ATTACHED.contains(&record.state())
    });
    assert!(
        notes(&tight).contains("podtap.dev/oops") && notes(&tight).contains("only headers"),
        "{}",
        notes(&tight)
    );
    send(a, b);
    agent.apply("a.yaml", &pod(a)).unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(kept(&record), [[400; 10], [HEADERS; 10]].concat());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_window_does_not_move_with_the_start_time_of_a_capture_that_has_begun() {
    let pods = Pods::with(&["a"]).unwrap();
    let mut agent = Agent::start("window").unwrap();
    agent.apply("a.yaml", &pod(pods.pod("a"))).unwrap();
    let mut spec = json!({"podNames": ["a"], "filter": FILTER, "duration": "4s"});
    agent.apply("c.yaml", &packet_capture("c", spec.clone())).unwrap();
    agent.wait_capture("c", &ATTACHED).unwrap();
    let begun = Instant::now();
    let record = loop {
        assert!(begun.elapsed() < SOON, "it goes on and on:\n{}", agent.log());
        let start = Timestamp::now() - SignedDuration::from_millis(100);
        spec["startTime"] = json!(start.to_string());
        agent.apply("c.yaml", &packet_capture("c", spec.clone())).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        if let Some(record) = agent.records().unwrap().into_iter().find(Record::is_over) {
            break record;
        }
    };
    assert_eq!((record.state(), record.reason()), ("Completed", "WindowOver"));
    assert!(notes(&record).contains("startTime"), "{}", notes(&record));
    assert!(setting(&record, "startTime").is_null());
    assert_eq!(agent.records().unwrap().len(), 1);
}
