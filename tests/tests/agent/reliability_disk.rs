//! A data directory that takes no more: full, at its quota, read-only, broken.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::Attached;
use podtap_tests::manifest::{labelled, pod};
use podtap_tests::metrics::{Metrics, free_address};
use podtap_tests::pods::{Pod, Pods};
use podtap_tests::process::{Process, output};
use podtap_tests::record::Record;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, Sent, sink};

const PORT: u16 = 9000;
const FILTER: (&str, &str) = ("filter", "udp port 9000");
const DISK_MIB: u64 = 64;

struct Scene {
    pods: Pods,
    _sink: Process,
}

impl Scene {
    fn new() -> Self {
        let pods = Pods::with(&["a", "c", "b"]).unwrap();
        let sink = sink(pods.pod("b"), PORT).unwrap();
        Self { pods, _sink: sink }
    }

    fn pod(&self, name: &str) -> &Pod {
        self.pods.pod(name)
    }

    fn label(&self, agent: &Agent, name: &str) {
        agent.apply(&format!("{name}.yaml"), &labelled(self.pod(name), &[FILTER])).unwrap();
    }

    fn unlabel(&self, agent: &Agent, name: &str) {
        agent.apply(&format!("{name}.yaml"), &pod(self.pod(name))).unwrap();
    }

    /// Has these captured.
    fn capture(&self, agent: &mut Agent, names: &[&str]) {
        for name in names {
            self.label(agent, name);
            agent.wait_pod(name, &ATTACHED).unwrap();
        }
    }

    /// Asks anew for a capture of that pod, another than those: it has all that the pod sends.
    fn capture_again(&self, agent: &mut Agent, name: &str, than: &[String]) {
        self.unlabel(agent, name);
        // The agent must have seen that nobody asks any more.
        std::thread::sleep(Duration::from_millis(300));
        self.label(agent, name);
        another(agent, name, than, &ATTACHED);
        self.send(name, 1000, 100);
        self.unlabel(agent, name);
        check(&another(agent, name, than, &["Stopped"]), 100);
    }

    /// Waits until nothing is on the interfaces of these.
    fn untapped(&self, agent: &mut Agent, names: &[&str]) {
        let off = |name: &&str| !Attached::on(&self.pod(name).host_interface).unwrap().any();
        agent.wait("the taps to go", SOON, |_| names.iter().all(off).then_some(())).unwrap();
        assert!(agent.process().running(), "{}", agent.log());
    }

    /// Packets of 1,400 bytes.
    fn send(&self, name: &str, rate: u64, packets: u64) -> Sent {
        let flood = Flood::new(self.pod(name), self.pod("b"), PORT, packets);
        Flood { rate: Some(rate), frame: 1400, ..flood }.run().unwrap()
    }
}

/// Waits until that many packets of a pod are in files.
fn written(agent: &mut Agent, pod: &str, packets: usize) {
    agent
        .wait("packets in files", SOON, |records| {
            let own = records.iter().find(|record| record.pod() == pod)?;
            own.numbers(PORT).is_ok_and(|numbers| numbers.len() >= packets).then_some(())
        })
        .unwrap();
}

/// Waits until the agent has logged such a line.
fn said(agent: &mut Agent, so: impl Fn(&str) -> bool) {
    let log = agent.log_file();
    agent
        .wait("a line of the log", SOON, |_| {
            std::fs::read_to_string(&log).ok()?.lines().any(&so).then_some(())
        })
        .unwrap();
}

/// The names of all runs.
fn names(agent: &Agent) -> Vec<String> {
    agent.records().unwrap().iter().map(|record| record.name().to_owned()).collect()
}

/// Waits for another run of that pod than those.
fn another(agent: &mut Agent, pod: &str, than: &[String], states: &[&str]) -> Record {
    agent
        .wait("another run", SOON, |records| {
            let wanted = |record: &&Record| {
                record.pod() == pod
                    && !than.iter().any(|name| name == record.name())
                    && states.contains(&record.state())
            };
            records.iter().find(wanted).cloned()
        })
        .unwrap()
}

/// Checks that a run's files hold the first packets without a gap, and that all others are counted.
fn check(record: &Record, sent: u64) {
    let numbers = record.numbers(PORT).unwrap();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "{}", record.name());
    assert_eq!(record.packets(), numbers.len() as u64);
    assert!(record.from_pod().matched <= sent);
    assert_eq!(record.packets() + record.dropped(), record.from_pod().matched, "{}", record.json());
    for file in record.files() {
        agree(&file).unwrap();
    }
}

fn bytes_of_files(directory: &Path) -> u64 {
    let list = output(Command::new("find").arg(directory).args(["-type", "f", "-printf", "%s\n"])).unwrap();
    list.lines().map(|line| line.parse::<u64>().unwrap()).sum()
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_disk_is_not_filled_beyond_its_guard() {
    let scene = Scene::new();
    let mut agent = Agent::start_on_disk("guard", "", DISK_MIB).unwrap();
    scene.label(&agent, "a");
    agent.wait_pod("a", &ATTACHED).unwrap();
    let sent = scene.send("a", 40_000, 60_000);
    let failed = agent.wait_pod("a", &["Failed"]).unwrap();
    assert_eq!(failed.reason(), "DiskFull");
    let on = Attached::on(&scene.pod("a").host_interface).unwrap();
    assert!(!on.any(), "{on:?}");
    check(&failed, sent.packets);
    let used = output(Command::new("df").args(["--output=pcent"]).arg(agent.data_dir())).unwrap();
    let percent: u64 = used.trim().rsplit_once('\n').unwrap().1.trim().trim_end_matches('%').parse().unwrap();
    assert!((60..=76).contains(&percent), "{percent} % are used; 75 % may be");

    // Whoever asks now is told; so is nobody's file harmed.
    scene.label(&agent, "c");
    assert_eq!(agent.wait_pod("c", &["Failed", "Refused"]).unwrap().reason(), "DiskFull");
    // Room is made, and both ask again.
    for file in failed.files() {
        std::fs::remove_file(file).unwrap();
    }
    let old = names(&agent);
    // The disk is looked at before anybody is refused.
    for name in ["a", "c"] {
        scene.capture_again(&mut agent, name, &old);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_disk_that_somebody_else_fills_ends_captures_and_they_go_on_when_asked_again() {
    let scene = Scene::new();
    let mut agent = Agent::start_on_disk("full", "maxDiskPercent: 100\n", DISK_MIB).unwrap();
    scene.capture(&mut agent, &["a", "c"]);
    // One writes all the time, the other not yet.
    let flood = Flood::new(scene.pod("a"), scene.pod("b"), PORT, 30_000);
    let sending = Flood { rate: Some(5_000), frame: 1000, ..flood }.start().unwrap();
    written(&mut agent, "a", 2_000);
    agent.disk().fill().unwrap();
    let sent = sending.wait().unwrap();
    // The write that failed was taken back, which has made room for the little that comes now.
    scene.untapped(&mut agent, &["a"]);
    agent.disk().fill().unwrap();
    let more = scene.send("c", 1000, 100);
    scene.untapped(&mut agent, &["c"]);
    // Not even a record could be written meanwhile.
    agent.disk().free().unwrap();
    for (name, sent) in [("a", sent), ("c", more)] {
        let failed = agent.wait_pod(name, &["Failed"]).unwrap();
        assert_eq!(failed.reason(), "DiskFull");
        check(&failed, sent.packets);
        let run = std::fs::read_to_string(failed.directory().join("run.json")).unwrap();
        assert!(run.contains("DiskFull"), "{run}");
    }
    assert!(agent.wait_pod("a", &["Failed"]).unwrap().packets() >= 2_000);
    let old = names(&agent);
    for name in ["a", "c"] {
        scene.capture_again(&mut agent, name, &old);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_data_directory_at_its_quota_takes_no_more_until_files_are_gone() {
    const QUOTA: u64 = 16 << 20;
    let scene = Scene::new();
    let address = free_address().unwrap();
    let configuration = format!("quota: 16Mi\nhttpAddress: {address}\n");
    let mut agent = Agent::start_with("quota", &configuration, &[]).unwrap();
    scene.capture(&mut agent, &["a", "c"]);
    scene.send("c", 1000, 100);
    let sent = scene.send("a", 40_000, 20_000);
    let failed = agent.wait_pod("a", &["Failed"]).unwrap();
    assert_eq!(failed.reason(), "QuotaReached");
    check(&failed, sent.packets);
    let used = bytes_of_files(&agent.data_dir());
    assert!((QUOTA - (2 << 20)..=QUOTA).contains(&used), "{used} of {QUOTA} bytes");
    // A capture that wrote before keeps what it has.
    scene.unlabel(&agent, "c");
    check(&agent.wait_pod("c", &["Stopped", "Failed"]).unwrap(), 100);

    for file in failed.files() {
        std::fs::remove_file(file).unwrap();
    }
    // While there is no room, the directory is counted every five seconds.
    Metrics::scrape_until(address, "the room to be seen", SOON, |metrics| {
        metrics.count("podtap_data_dir_used_bytes", &[]).unwrap() < QUOTA / 2
    })
    .unwrap();
    scene.capture_again(&mut agent, "a", &[failed.name().to_owned()]);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_directory_that_becomes_read_only_ends_captures_and_they_go_on_when_asked_again() {
    let scene = Scene::new();
    let mut agent = Agent::start_on_disk("remount", "", DISK_MIB).unwrap();
    scene.capture(&mut agent, &["a", "c"]);
    // There is no file yet that would keep it from being so.
    agent.disk().read_only().unwrap();
    scene.send("a", 1000, 500);
    scene.untapped(&mut agent, &["a"]);
    assert!(Attached::on(&scene.pod("c").host_interface).unwrap().any(), "it has written nothing yet");

    agent.disk().writable().unwrap();
    let failed = agent.wait_pod("a", &["Failed"]).unwrap();
    assert_eq!(failed.reason(), "WriteFailed");
    assert!(failed.message().contains("ead-only"), "{}", failed.message());
    let matched = failed.from_pod().matched;
    assert!((1..=500).contains(&matched), "{matched}");
    assert_eq!(
        (failed.packets(), failed.dropped()),
        (0, matched),
        "all that came until it ended are counted"
    );
    scene.send("c", 1000, 100);
    scene.unlabel(&agent, "c");
    check(&agent.wait_pod("c", &["Stopped"]).unwrap(), 100);
    scene.capture_again(&mut agent, "a", &[failed.name().to_owned()]);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_disk_that_breaks_ends_captures_and_after_its_repair_the_next_agent_goes_on() {
    let scene = Scene::new();
    let mut agent = Agent::start_on_disk("broken", "", DISK_MIB).unwrap();
    scene.capture(&mut agent, &["a", "c"]);
    let flood = |name| Flood::new(scene.pod(name), scene.pod("b"), PORT, 12_000);
    let sending = ["a", "c"].map(|name| Flood { rate: Some(2_000), ..flood(name) }.start().unwrap());
    for name in ["a", "c"] {
        written(&mut agent, name, 1_001);
    }
    // What is in the kernel's memory only when a disk breaks is lost with it.
    output(Command::new("sync").arg("--file-system").arg(agent.data_dir())).unwrap();
    agent.disk().fail().unwrap();
    for sending in sending {
        sending.wait().unwrap();
    }
    scene.untapped(&mut agent, &["a", "c"]);
    said(&mut agent, |line| line.contains("WriteFailed"));
    let before = agent.records().unwrap();
    assert!(agent.stop().unwrap().success());
    agent.disk().repair().unwrap();
    agent.start_again().unwrap();
    for (name, before) in ["a", "c"].iter().zip(&before) {
        // Its end could not be written down, so it has not ended.
        let record = agent.wait_pod(name, &ATTACHED).unwrap();
        assert_eq!(record.name(), before.name(), "the same run");
        scene.send(name, 1000, 100);
        scene.unlabel(&agent, name);
        let record = agent.wait_pod(name, &["Stopped"]).unwrap();
        let numbers = record.numbers(PORT).unwrap();
        let earlier = numbers.len() - 100;
        assert!(earlier > 1000, "{earlier} packets of before");
        let expected: Vec<u64> = (0..earlier as u64).chain(0..100).collect();
        assert_eq!(numbers, expected);
        for file in record.files() {
            agree(&file).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_request_that_finds_the_directory_read_only_is_carried_out_when_it_is_not() {
    let scene = Scene::new();
    let mut agent = Agent::start_on_disk("readonly", "", DISK_MIB).unwrap();
    agent.wait_ready().unwrap();
    // Of an agent that runs, and of one that starts.
    for (name, restart) in [("a", false), ("c", true)] {
        if restart {
            assert!(agent.stop().unwrap().success());
        }
        agent.disk().read_only().unwrap();
        if restart {
            agent.start_as_it_is().unwrap();
            agent.wait_ready().unwrap();
        }
        scene.label(&agent, name);
        said(&mut agent, |line| {
            line.contains("ead-only") && line.contains("cannot make") && line.contains(name)
        });
        agent.disk().writable().unwrap();
        agent.wait_pod(name, &ATTACHED).unwrap();
        scene.send(name, 1000, 100);
        scene.unlabel(&agent, name);
        check(&agent.wait_pod(name, &["Stopped"]).unwrap(), 100);
    }
}
