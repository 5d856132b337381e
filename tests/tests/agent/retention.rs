//! Files and records go together when retention ends, whatever has become of everything else.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::process::output;
use podtap_tests::record::Record;
use podtap_tests::traffic::{Flood, sink};
use serde_json::{Value, json};

const PORT: u16 = 9000;
const FILTER: (&str, &str) = ("filter", "udp port 9000");
const CONFIGURATION: &str = "defaults: {retention: 8s}\ncaps: {capturesPerNamespace: 20}\n";

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

/// The file that shows a record.
fn shown(agent: &Agent, record: &Record) -> PathBuf {
    agent.data_dir().join(".status").join(record.namespace()).join(format!("{}.json", record.name()))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The namespaces that have anything in the data directory.
fn namespaces(agent: &Agent) -> Vec<String> {
    names(&agent.data_dir()).into_iter().filter(|name| !name.starts_with('.')).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn files_and_records_go_although_pod_capture_namespace_or_record_are_gone() {
    let pods = Pods::with(&["stays", "goes", "alone", "b"]).unwrap();
    let b = pods.pod("b");
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start_with("gone", CONFIGURATION, &[]).unwrap();
    // The pod of the first goes, the capture of the second, the third with all of its namespace, the record of the last.
    let spec = |pod: &str| json!({"podNames": [pod], "filter": FILTER.1, "duration": "5s"});
    for (name, namespace) in [("stays", "default"), ("goes", "default"), ("alone", "alone")] {
        agent.apply(&format!("{name}.yaml"), &in_namespace(pod(pods.pod(name)), namespace)).unwrap();
    }
    let captures = [
        ("pod-gone", "goes", "default"),
        ("capture-gone", "stays", "default"),
        ("namespace-gone", "alone", "alone"),
        ("record-gone", "stays", "default"),
    ];
    for (name, pod, namespace) in captures {
        let capture = in_namespace(packet_capture(name, spec(pod)), namespace);
        agent.apply(&format!("{name}.yaml"), &capture).unwrap();
    }
    for (name, ..) in captures {
        agent.wait_capture(name, &ATTACHED).unwrap();
    }
    for name in ["stays", "goes", "alone"] {
        Flood::new(pods.pod(name), b, PORT, 10).run().unwrap();
    }
    agent
        .wait("all to be over", SOON, |records| {
            (records.len() == 4 && records.iter().all(|record| record.state() == "Completed")).then_some(())
        })
        .unwrap();
    let records = agent.records().unwrap();
    for record in &records {
        assert_eq!(record.numbers(PORT).unwrap().len(), 10, "{}", record.name());
    }
    let of = |capture: &str| records.iter().find(|record| record.capture() == capture).unwrap();
    agent.remove("goes.yaml").unwrap();
    agent.remove("capture-gone.yaml").unwrap();
    agent.remove("alone.yaml").unwrap();
    agent.remove("namespace-gone.yaml").unwrap();
    std::fs::remove_file(shown(&agent, of("record-gone"))).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    for record in &records {
        assert!(
            !record.files().is_empty() && record.files()[0].exists(),
            "kept until then: {}",
            record.name()
        );
    }
    agent
        .wait("all files to go", SOON, |_| {
            records.iter().all(|record| record.files().iter().all(|file| !file.exists())).then_some(())
        })
        .unwrap();
    agent.wait("all records to go", SOON, |records| records.is_empty().then_some(())).unwrap();
    let data = agent.data_dir();
    // Of requests that still stand, the note stays that they have been carried out. A pod's going withdraws its run.
    agent
        .wait("the rest to go", SOON, |_| {
            let left = names(&data.join("default"));
            (left == [of("record-gone").name()]).then_some(())
        })
        .unwrap();
    assert_eq!(namespaces(&agent), ["default"]);
    assert_eq!(names(&of("record-gone").directory()), ["run.json"]);
    agent.remove("record-gone.yaml").unwrap();
    agent.remove("stays.yaml").unwrap();
    agent.wait("the note to go", SOON, |_| (!data.join("default").exists()).then_some(())).unwrap();
    assert_eq!(names(&data.join(".status")), Vec::<String>::new());
    assert!(agent.process().running());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn what_ends_or_vanishes_while_no_agent_runs_is_gone_when_the_next_one_has_begun() {
    let pods = Pods::with(&["a", "c", "b"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start_with("away", "", &[]).unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let spec = json!({"podNames": ["a"], "filter": FILTER.1, "duration": "4s", "retention": "6s"});
    agent.apply("short.yaml", &packet_capture("short", spec)).unwrap();
    agent.apply("c.yaml", &labelled(c, &[FILTER])).unwrap();
    for name in ["a", "c"] {
        agent.wait_pod(name, &ATTACHED).unwrap();
        Flood::new(pods.pod(name), b, PORT, 10).run().unwrap();
    }
    agent.apply("c.yaml", &pod(c)).unwrap();
    let short = agent.wait_pod("a", &["Completed"]).unwrap();
    let vanished = agent.wait_pod("c", &["Stopped"]).unwrap();
    assert!(agent.stop().unwrap().success());
    assert!(short.files()[0].exists());
    // Somebody makes room by hand.
    std::fs::remove_dir_all(vanished.directory()).unwrap();
    agent.remove("short.yaml").unwrap();
    std::thread::sleep(Duration::from_secs(6));
    assert!(shown(&agent, &vanished).exists() && shown(&agent, &short).exists());
    agent.start_as_it_is().unwrap();
    agent.wait_ready().unwrap();
    assert!(!shown(&agent, &vanished).exists(), "its run is gone");
    agent.wait("both to be gone", SOON, |records| records.is_empty().then_some(())).unwrap();
    agent.wait("the directory, too", SOON, |_| (!short.directory().exists()).then_some(())).unwrap();
    assert_eq!(namespaces(&agent), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_run_that_nobody_can_read_goes_after_a_day_and_what_is_not_the_agents_stays() {
    let pods = Pods::with(&["a", "c", "d", "b"]).unwrap();
    let b = pods.pod("b");
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start_with("damaged", "", &[]).unwrap();
    let records = ["a", "c", "d"].map(|name| {
        let one = pods.pod(name);
        agent.apply(&format!("{name}.yaml"), &labelled(one, &[FILTER])).unwrap();
        agent.wait_pod(name, &ATTACHED).unwrap();
        Flood::new(one, b, PORT, 10).run().unwrap();
        agent.remove(&format!("{name}.yaml")).unwrap();
        agent.wait_pod(name, &["Stopped"]).unwrap()
    });
    assert!(agent.stop().unwrap().success());
    let [old, young, newer] = &records;
    // A crash of the whole machine may leave a file empty.
    for record in [old, young] {
        std::fs::write(record.directory().join("run.json"), "").unwrap();
    }
    let json = std::fs::read_to_string(newer.directory().join("run.json")).unwrap();
    let json = json.replacen("\"version\": 1", "\"version\": 1000", 1);
    std::fs::write(newer.directory().join("run.json"), json).unwrap();
    let foreign = agent.data_dir().join("backup/of-mine");
    std::fs::create_dir_all(&foreign).unwrap();
    std::fs::write(foreign.join("notes.txt"), "mine").unwrap();
    for directory in [old.directory(), newer.directory(), foreign.clone()] {
        output(Command::new("find").arg(&directory).args(["-exec", "touch", "-d", "2 days ago", "{}", "+"]))
            .unwrap();
    }
    agent.start_as_it_is().unwrap();
    agent.wait_ready().unwrap();
    agent.wait("the old one to go", SOON, |_| (!old.directory().exists()).then_some(())).unwrap();
    assert!(!shown(&agent, old).exists());
    std::thread::sleep(Duration::from_secs(1));
    assert!(young.files()[0].exists(), "a day has not passed");
    assert!(newer.files()[0].exists(), "an agent of its version may come back");
    assert_eq!(std::fs::read_to_string(foreign.join("notes.txt")).unwrap(), "mine");
    assert!(agent.process().running());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_run_that_nobody_can_read_is_not_written_over_by_the_next_of_its_request() {
    let pods = Pods::with(&["empty", "newer", "begun", "b"]).unwrap();
    let b = pods.pod("b");
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start("unreadable").unwrap();
    let [empty, newer, begun] = ["empty", "newer", "begun"].map(|name| {
        let one = pods.pod(name);
        agent.apply(&format!("{name}.yaml"), &labelled(one, &[FILTER])).unwrap();
        agent.wait_pod(name, &ATTACHED).unwrap();
        Flood::new(one, b, PORT, 10).run().unwrap();
        agent
            .wait("its packets", SOON, |records| {
                records.iter().find(|record| record.pod() == name && record.packets() == 10).cloned()
            })
            .unwrap()
    });
    assert!(agent.stop().unwrap().success());
    // As a crash of the machine, a later version, and an agent that died before it wrote anything leave them.
    let run = |record: &Record| record.directory().join("run.json");
    let json =
        std::fs::read_to_string(run(&newer)).unwrap().replacen("\"version\": 1", "\"version\": 1000", 1);
    std::fs::write(run(&empty), "").unwrap();
    std::fs::write(run(&newer), &json).unwrap();
    for file in names(&begun.directory()) {
        std::fs::remove_file(begun.directory().join(file)).unwrap();
    }
    let before = [&empty, &newer].map(|record| names(&record.directory()));
    agent.start_again().unwrap();
    for (name, old, number) in [("empty", &empty, 1), ("newer", &newer, 1), ("begun", &begun, 0)] {
        let new = agent.wait_pod(name, &ATTACHED).unwrap();
        assert_eq!(new.name() == old.name(), number == 0, "{name}");
        Flood::new(pods.pod(name), b, PORT, 20).run().unwrap();
        agent
            .wait("its packets", SOON, |records| {
                records.iter().any(|record| record.pod() == name && record.packets() == 20).then_some(())
            })
            .unwrap();
        let run: Value = serde_json::from_slice(&std::fs::read(run(&new)).unwrap()).unwrap();
        assert_eq!(run["number"], number, "{name}");
    }
    assert_eq!(before, [&empty, &newer].map(|record| names(&record.directory())));
    assert_eq!(std::fs::read_to_string(run(&empty)).unwrap(), "");
    assert_eq!(std::fs::read_to_string(run(&newer)).unwrap(), json);
}
