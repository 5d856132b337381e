//! An agent that ends and begins again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::Attached;
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::process::{is_slow_machine, program};
use podtap_tests::stalls::Stalls;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn unfinished_runs_go_on_and_finished_ones_do_not() {
    let pods = Pods::with(&["a", "b", "c"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("restart").unwrap();
    let filter = ("filter", "udp port 9000");
    agent.apply("a.yaml", &labelled(a, &[filter, ("max-packets", "250")])).unwrap();
    agent.apply("c.yaml", &labelled(c, &[filter, ("max-packets", "50")])).unwrap();
    for name in ["a", "c"] {
        agent.wait_pod(name, &ATTACHED).unwrap();
    }
    Flood::new(c, b, 9000, 100).run().unwrap();
    let done = agent.wait_pod("c", &["Completed"]).unwrap();
    let name = agent.wait_pod("a", &ATTACHED).unwrap().name().to_owned();
    for round in 0..3 {
        Flood::new(a, b, 9000, 100).run().unwrap();
        if round == 0 {
            assert!(agent.stop().unwrap().success());
        } else if round == 1 {
            agent.wait_on_disk("a", 9000, 200).unwrap();
            agent.kill();
        }
        if round < 2 {
            let (begun, stalls) = (Instant::now(), Stalls::watch());
            agent.start_again().unwrap();
            agent
                .wait("attached again", SOON, |records| {
                    records
                        .iter()
                        .any(|r| {
                            r.pod() == "a"
                                && ATTACHED.contains(&r.state())
                                && Attached::on(&a.host_interface).is_ok_and(Attached::any)
                        })
                        .then_some(())
                })
                .unwrap();
            let took = begun.elapsed();
            assert!(is_slow_machine() || took < Duration::from_secs(2) + stalls.so_far(), "{took:?}");
        }
    }
    let record = agent.wait_pod("a", &["Completed"]).unwrap();
    assert_eq!(record.name(), name, "the same run");
    let expected: Vec<u64> = (0..100).chain(0..100).chain(0..50).collect();
    assert_eq!(record.numbers(9000).unwrap(), expected);
    assert_eq!((record.packets(), record.files().len()), (250, 3));
    for file in record.files() {
        agree(&file).unwrap();
    }
    Flood::new(c, b, 9000, 100).run().unwrap();
    let still = agent.wait_pod("c", &["Completed"]).unwrap();
    assert_eq!((still.name(), still.packets(), still.files()), (done.name(), 50, done.files()));
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_label_removed_while_the_agent_is_away_ends_the_run() {
    let pods = Pods::with(&["a"]).unwrap();
    let a = pods.pod("a");
    let mut agent = Agent::start("away").unwrap();
    agent.apply("a.yaml", &labelled(a, &[])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    agent.kill();
    agent.apply("a.yaml", &pod(a)).unwrap();
    agent.start_again().unwrap();
    agent.wait_pod("a", &["Stopped"]).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_withdrawn_run_that_a_killed_agent_could_not_end_is_over_and_holds_no_place() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start_with("withdrawn", "caps: {capturesPerNamespace: 1}\n", &[]).unwrap();
    let manifest = labelled(a, &[("filter", "udp port 9000"), ("duration", "1h")]);
    agent.apply("a.yaml", &manifest).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, 9000, 10).run().unwrap();
    agent.wait_on_disk("a", 9000, 10).unwrap();
    agent.kill();
    let record = agent.records().unwrap().remove(0);
    let file = record.directory().join("run.json");
    let mut run: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    (run["released"], run["state"]) = (true.into(), "Capturing".into());
    std::fs::write(&file, serde_json::to_vec(&run).unwrap()).unwrap();
    agent.start_again().unwrap();
    // The label is still there, or again.
    agent
        .wait("the first to be over and the second to capture", SOON, |records| {
            let first = records.iter().find(|one| one.name() == record.name())?;
            let second = records.iter().find(|one| one.name() != record.name())?;
            assert_ne!(second.state(), "Refused", "{}", second.message());
            let over = (first.state(), first.reason()) == ("Stopped", "RequestRemoved");
            (over && first.packets() == 10 && ATTACHED.contains(&second.state())).then_some(())
        })
        .unwrap();
    assert_eq!(record.numbers(9000).unwrap().len(), 10);
}

/// Makes a capture file longer by blocks without a packet: it takes long to read, and hardly any room on the disk.
fn lengthen(file: &Path, bytes: u64) {
    const LENGTH: u32 = 256 << 10;
    /// A statistics block.
    const HEAD: [u32; 2] = [5, LENGTH];
    let file = OpenOptions::new().write(true).open(file).unwrap();
    let mut at = file.metadata().unwrap().len();
    let end = at + bytes;
    while at < end {
        file.write_all_at(&HEAD.map(u32::to_le_bytes).concat(), at).unwrap();
        at += u64::from(LENGTH);
        file.write_all_at(&LENGTH.to_le_bytes(), at - 4).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn packets_of_a_file_that_is_deleted_before_it_could_be_mended_count() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start_with("deleted", "caps: {bytes: 100Gi}\n", &[]).unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let captures = ["one", "two"];
    for name in captures {
        let spec = json!({
            "podNames": ["a"], "filter": "udp port 9000", "limits": {"bytes": "100Gi"}, "rotation": {"files": 1},
        });
        agent.apply(&format!("{name}.yaml"), &packet_capture(name, spec)).unwrap();
        agent.wait_capture(name, &ATTACHED).unwrap();
    }
    Flood::new(a, b, 9000, 100).run().unwrap();
    // All of it is on disk after a second.
    std::thread::sleep(Duration::from_millis(1100));
    agent.kill();
    // One is mended after the other, so the second is deleted before its turn comes.
    let before = captures.map(|name| {
        let record = agent.wait_capture(name, &["Capturing"]).unwrap();
        let [file] = &record.files()[..] else { panic!("{:?}", record.files()) };
        lengthen(file, 3 << 30);
        (file.clone(), file.metadata().unwrap().len())
    });
    agent.start_again().unwrap();
    for name in captures {
        agent.wait_capture(name, &ATTACHED).unwrap();
    }
    Flood::new(a, b, 9000, 50).run().unwrap();
    for (name, (old, length)) in captures.into_iter().zip(before) {
        let what = format!("all packets of {name} to count");
        let record = agent
            .wait(&what, SOON, |records| {
                let record = records.iter().find(|record| record.capture() == name)?;
                (record.packets() == 150).then(|| record.clone())
            })
            .unwrap();
        assert!(!old.exists(), "only the newest file is kept");
        assert_eq!(record.numbers(9000).unwrap(), (0..50).collect::<Vec<u64>>());
        let run = std::fs::read(record.directory().join("run.json")).unwrap();
        let run: serde_json::Value = serde_json::from_slice(&run).unwrap();
        assert_eq!(run["bytesNotListed"], length, "{run:#}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_second_agent_on_the_same_directory_says_so() {
    let mut agent = Agent::start("second").unwrap();
    agent.wait_ready().unwrap();
    let mut second = Command::new(program("capture-daemon").unwrap());
    second.arg("run").arg("--pods").arg(agent.pods_dir()).arg("--data-dir").arg(agent.data_dir());
    let output = second.output().unwrap();
    assert!(!output.status.success());
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(agent.data_dir().to_str().unwrap()), "{said}");
    assert!(agent.process().running());
}
