//! What namespaces share and what they do not: quotas, and a name that comes back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::Path;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::manifest::{labelled, pod};
use podtap_tests::metrics::{Metrics, free_address};
use podtap_tests::pods::{Pod, Pods};
use podtap_tests::record::Record;
use podtap_tests::traffic::{Flood, Sent, sink};
use serde_json::{Value, json};

const PORT: u16 = 9000;
const FILTER: (&str, &str) = ("filter", "udp port 9000");

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

/// Packets of 1,400 bytes, not faster than any machine captures them.
fn send(from: &Pod, to: &Pod, packets: u64) -> Sent {
    Flood { rate: Some(20_000), frame: 1400, ..Flood::new(from, to, PORT, packets) }.run().unwrap()
}

/// Checks that a run's files hold the first packets without a gap, and that all others are counted.
fn check(record: &Record) {
    let numbers = record.numbers(PORT).unwrap();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "{}", record.name());
    assert_eq!(record.packets(), numbers.len() as u64);
    assert_eq!(record.packets() + record.dropped(), record.from_pod().matched, "{}", record.json());
}

fn bytes_of_files(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata().unwrap() {
            directory if directory.is_dir() => bytes_of_files(&entry.path()),
            file => file.len(),
        })
        .sum()
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_namespace_at_its_quota_takes_no_more_until_files_are_gone_and_others_go_on() {
    const QUOTA: u64 = 8 << 20;
    let pods = Pods::with(&["a", "a2", "c", "b"]).unwrap();
    let (a, a2, b, c) = (pods.pod("a"), pods.pod("a2"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, PORT).unwrap();
    let address = free_address().unwrap();
    let configuration = format!("quotaPerNamespace: 8Mi\nhttpAddress: {address}\n");
    let mut agent = Agent::start_with("namespace-quota", &configuration, &[]).unwrap();
    let apply = |agent: &Agent, one: &Pod, namespace: &str, wanted: bool| {
        let object = if wanted { labelled(one, &[FILTER]) } else { pod(one) };
        agent.apply(&format!("{}.yaml", one.name), &in_namespace(object, namespace)).unwrap();
    };
    apply(&agent, a, "team-a", true);
    apply(&agent, c, "team-c", true);
    for name in ["a", "c"] {
        agent.wait_pod(name, &ATTACHED).unwrap();
    }
    send(a, b, 10_000);
    let failed = agent.wait_pod("a", &["Failed"]).unwrap();
    assert_eq!(failed.reason(), "NamespaceQuotaReached");
    assert!(failed.message().contains("namespace"), "{}", failed.message());
    check(&failed);
    let used = bytes_of_files(&agent.data_dir().join("team-a"));
    assert!((QUOTA - (1 << 20)..=QUOTA).contains(&used), "{used} of {QUOTA} bytes");

    // Another pod of the same namespace has no room, one of another namespace has as much.
    apply(&agent, a2, "team-a", true);
    let refused = agent.wait_pod("a2", &["Failed", "Refused"]).unwrap();
    assert_eq!((refused.reason(), refused.packets()), ("NamespaceQuotaReached", 0));
    send(c, b, 4_000);
    apply(&agent, c, "team-c", false);
    let other = agent.wait_pod("c", &["Stopped"]).unwrap();
    check(&other);
    assert_eq!(other.packets(), 4_000);
    let told = |metrics: &Metrics, namespace: &str| {
        metrics.count("podtap_namespace_used_bytes", &[("namespace", namespace)]).ok()
    };
    let found =
        ["team-a", "team-c"].map(|namespace| (namespace, bytes_of_files(&agent.data_dir().join(namespace))));
    let metrics = Metrics::scrape_until(address, "what both namespaces have", SOON, |metrics| {
        found.iter().all(|(namespace, found)| told(metrics, namespace) == Some(*found))
    })
    .unwrap();
    assert_eq!(metrics.count("podtap_namespace_quota_bytes", &[]).unwrap(), QUOTA);

    for file in failed.files() {
        std::fs::remove_file(file).unwrap();
    }
    for one in [a, a2] {
        apply(&agent, one, "team-a", false);
    }
    // While somebody has no room, the directory is counted every five seconds.
    Metrics::scrape_until(address, "the room to be seen", SOON, |metrics| {
        told(metrics, "team-a").is_some_and(|used| used < QUOTA / 2)
    })
    .unwrap();
    apply(&agent, a, "team-a", true);
    let known = [failed.name(), refused.name(), other.name()];
    agent
        .wait("another run", SOON, |records| {
            let new = records.iter().find(|record| !known.contains(&record.name()))?;
            ATTACHED.contains(&new.state()).then_some(())
        })
        .unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_namespace_made_again_has_nothing_of_its_predecessor() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let address = free_address().unwrap();
    let configuration =
        format!("quotaPerNamespace: 8Mi\nhttpAddress: {address}\ncaps: {{capturesPerNamespace: 1}}\n");
    let mut agent = Agent::start_with("again", &configuration, &[]).unwrap();
    agent.apply("a.yaml", &labelled(a, &[FILTER])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    // Three quarters of the quota.
    send(a, b, 4_200);
    let old = agent.wait_pod("a", &ATTACHED).unwrap();
    assert!(agent.stop().unwrap().success());
    // As if the namespace had been another one of the same name when this was captured.
    let file = old.directory().join("run.json");
    let mut run: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(run["state"], json!("Pending"), "it is not over");
    run["namespaceUID"] = json!("of-before");
    std::fs::write(&file, serde_json::to_vec(&run).unwrap()).unwrap();
    let kept = bytes_of_files(&old.directory());
    assert!(kept > 5 << 20, "{kept}");

    agent.start_as_it_is().unwrap();
    agent.wait_ready().unwrap();
    // Neither continued, nor shown, nor counted for what may be captured at once.
    let new = agent.wait_pod("a", &ATTACHED).unwrap();
    assert_ne!(new.name(), old.name());
    // Nor for the quota: together they have more.
    send(a, b, 4_200);
    agent.apply("a.yaml", &pod(a)).unwrap();
    let new = agent.wait_pod("a", &["Stopped", "Failed"]).unwrap();
    assert_eq!((new.state(), new.packets()), ("Stopped", 4_200), "{}", new.message());
    check(&new);
    let own = bytes_of_files(&new.directory());
    Metrics::scrape_until(address, "what the new one has", SOON, |metrics| {
        ["podtap_runs", "podtap_packets_written_total", "podtap_namespace_used_bytes"]
            .map(|name| metrics.count(name, &[("namespace", "default")]).ok())
            == [1, 4_200, own].map(Some)
    })
    .unwrap();
    // What was captured before is kept until its own retention ends, and is over.
    assert!(bytes_of_files(&old.directory()) >= kept - 4096);
    let run: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&run["state"], &run["namespaceUID"]), (&json!("Stopped"), &json!("of-before")));
    assert_eq!(agent.records().unwrap().len(), 1);
}
