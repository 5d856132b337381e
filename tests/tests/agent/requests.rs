//! Manifests: who is selected, and what happens to what cannot be carried out.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::manifest::{annotate, label, labelled, packet_capture, pod, pod_on};
use podtap_tests::pods::Pods;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

use super::captured::Captured;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn two_captures_of_one_pod_have_their_own_packets() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sinks = [9000, 9001].map(|port| sink(b, port).unwrap());
    let mut agent = Agent::start("two").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    for port in [9000, 9001] {
        let spec = json!({"podNames": ["a"], "filter": format!("udp port {port}")});
        agent.apply(&format!("{port}.yaml"), &packet_capture(&format!("c{port}"), spec)).unwrap();
    }
    for port in [9000, 9001] {
        agent.wait_capture(&format!("c{port}"), &ATTACHED).unwrap();
    }
    Flood::new(a, b, 9000, 111).run().unwrap();
    Flood::new(a, b, 9001, 222).run().unwrap();
    for (port, count) in [(9000, 111), (9001, 222)] {
        agent.remove(&format!("{port}.yaml")).unwrap();
        let record = agent.wait_capture(&format!("c{port}"), &["Stopped"]).unwrap();
        assert_eq!((record.packets(), record.numbers(port).unwrap().len()), (count, count as usize));
        assert_eq!(record.from_pod().matched, count);
        assert_eq!(record.from_pod().seen, 333);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn pods_that_come_later_join_a_selector() {
    let pods = Pods::with(&["a", "b", "c"]).unwrap();
    let mut agent = Agent::start("selector").unwrap();
    let spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "filter": "udp"});
    agent.apply("web.yaml", &packet_capture("web", spec)).unwrap();
    let web = |name: &str| label(pod(pods.pod(name)), "app", "web");
    agent.apply("a.yaml", &web("a")).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    agent.apply("c.yaml", &pod(pods.pod("c"))).unwrap();
    agent.apply("b.yaml", &web("b")).unwrap();
    agent.wait_pod("b", &ATTACHED).unwrap();
    agent.apply("a.yaml", &pod(pods.pod("a"))).unwrap();
    agent.wait_pod("a", &["Stopped"]).unwrap();
    let records = agent.records().unwrap();
    assert!(records.iter().all(|record| record.capture() == "web" && record.pod() != "c"));
    assert_eq!(records.len(), 2);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn what_is_wrong_is_refused_with_advice_and_disturbs_nobody() {
    const PACKETS: u64 = 20_000;
    let mut captured = Captured::by_label("wrong", &[], &[]);
    let sending =
        Flood { rate: Some(5_000), ..captured.flood(captured.pods.pod("a"), PACKETS) }.start().unwrap();
    let (agent, b) = (&mut captured.agent, captured.pods.pod("b"));

    // Each with a word that its message must have.
    let wrong = [
        ("filter", "tcp porrt 80", "porrt"),
        ("filter", "inbound", "direction"),
        ("max-packets", "many", "many"),
        ("duration", "2 weeks", "2 weeks"),
        ("snap-length", "-1", "-1"),
        ("fliter", "tcp", "filter"),
    ];
    for (number, (key, value, word)) in wrong.iter().enumerate() {
        let mut one = labelled(b, &[(key, value)]);
        let name = format!("wrong-{number}");
        one["metadata"]["name"] = json!(name);
        one["metadata"]["uid"] = json!(name);
        agent.apply(&format!("{name}.yaml"), &one).unwrap();
        let record = agent.wait_pod(&name, &["Refused"]).unwrap();
        assert!(record.message().contains(word), "{key}={value}: {}", record.message());
        assert!(record.reason().chars().all(char::is_alphanumeric), "{}", record.reason());
    }
    let bridge = podtap_tests::process::output(
        std::process::Command::new("ls")
            .arg(format!("/sys/class/net/{}/brport/bridge/brif", b.host_interface)),
    );
    assert!(bridge.unwrap().contains(&b.host_interface));
    let master = std::fs::read_link(format!("/sys/class/net/{}/master", b.host_interface)).unwrap();
    let master = master.file_name().unwrap().to_str().unwrap().to_owned();
    for (number, interface) in ["lo", "../etc", "a name that is far too long", &master].iter().enumerate() {
        let name = format!("place-{number}");
        let one = label(pod_on(&name, interface), "podtap.dev/capture", "true");
        agent.apply(&format!("{name}.yaml"), &one).unwrap();
        let record = agent.wait_pod(&name, &["Refused", "Failed"]).unwrap();
        assert!(!record.message().is_empty(), "{interface}");
    }

    // What has no name to answer to is said in the log.
    agent.write("half.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: half,").unwrap();
    agent.write("bytes.yaml", "\u{0}\u{1}\u{fffd}: [").unwrap();
    agent.write("empty.yaml", "").unwrap();
    agent.write("other.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\n").unwrap();
    for (file, name) in [("dots.yaml", "../x"), ("slash.yaml", "a/b"), ("upper.yaml", "NotAName")] {
        let mut one = labelled(b, &[]);
        one["metadata"]["name"] = json!(name);
        agent.apply(file, &one).unwrap();
    }
    let mut elsewhere = labelled(b, &[]);
    elsewhere["metadata"]["namespace"] = json!("../../elsewhere");
    agent.apply("elsewhere.yaml", &elsewhere).unwrap();
    // A file that is finished later is a manifest then.
    std::thread::sleep(Duration::from_millis(500));
    let whole = annotate(labelled(b, &[("filter", "udp port 9000")]), &[]);
    agent.write("half.yaml", &whole.to_string()).unwrap();
    agent.wait_pod("b", &ATTACHED).unwrap();
    for file in ["bytes.yaml", "dots.yaml", "slash.yaml", "elsewhere.yaml"] {
        assert!(agent.log().contains(file), "{file} is not in the log:\n{}", agent.log());
    }

    assert_eq!(sending.wait().unwrap().packets, PACKETS);
    let record = captured.unlabel();
    assert_eq!(record.numbers(9000).unwrap(), (0..PACKETS).collect::<Vec<_>>());
    let mut names: Vec<String> = std::fs::read_dir(captured.agent.home())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["data", "log", "pods"]);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn the_longest_names_are_captured() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("names").unwrap();
    let long = "n".repeat(253);
    let mut one = labelled(a, &[("filter", "udp port 9000")]);
    one["metadata"]["name"] = json!(long);
    agent.apply("long.yaml", &one).unwrap();
    let mut other = packet_capture(&"c".repeat(253), json!({"podNames": [long], "filter": "udp port 9000"}));
    other["metadata"]["uid"] = json!("other");
    agent.apply("capture.yaml", &other).unwrap();
    agent
        .wait("both", SOON, |records| {
            (records.len() == 2 && records.iter().all(|record| ATTACHED.contains(&record.state())))
                .then_some(())
        })
        .unwrap();
    Flood::new(a, b, 9000, 10).run().unwrap();
    agent.remove("long.yaml").unwrap();
    let records = agent
        .wait("both to stop", SOON, |records| {
            records.iter().all(|record| record.state() == "Stopped").then(|| records.to_vec())
        })
        .unwrap();
    for record in &records {
        assert_eq!((record.pod(), record.name().len() <= 200), (long.as_str(), true));
        assert_eq!(record.numbers(9000).unwrap().len(), 10);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_filter_that_cannot_be_compiled_just_now_is_not_refused() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("compiler").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let start = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let spec = json!({"podNames": ["a"], "filter": "udp port 9000", "startTime": format!("{start:.0}")});
    agent.apply("c.yaml", &packet_capture("c", spec)).unwrap();
    agent.wait_capture("c", &["Scheduled"]).unwrap();
    // No file more, so no pipe to the compiler, and no record that could tell of it either.
    let files = agent.process().limit_files(8).unwrap();
    let deadline = std::time::Instant::now() + SOON;
    while !agent.log().contains("CompilerUnavailable") {
        assert!(std::time::Instant::now() < deadline && agent.process().running(), "{}", agent.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    agent.process().limit_files(files).unwrap();
    agent.wait_capture("c", &ATTACHED).unwrap();
    Flood::new(a, b, 9000, 10).run().unwrap();
    agent.remove("c.yaml").unwrap();
    let record = agent.wait_capture("c", &["Stopped"]).unwrap();
    assert_eq!(record.numbers(9000).unwrap().len(), 10);
}
