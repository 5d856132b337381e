//! The agent's end while it has much to do: killed, or told to stop.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::Attached;
use podtap_tests::blocks;
use podtap_tests::manifest::{labelled, pod};
use podtap_tests::pods::{Pod, Pods};
use podtap_tests::process::{Process, output};
use podtap_tests::record::Record;
use podtap_tests::stalls::Stalls;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, Sending, numbers, sink};
use serde_json::Value;

const CAPTURES: usize = 20;
const PORT: u16 = 9000;
/// Files of the fast ones become full in the middle of it all.
const CONFIGURATION: &str = "caps: {capturesPerNamespace: 100}\ndefaults: {rotation: {fileBytes: 16Mi}}\n";

/// Twenty captured pods that send to one more which is not, until this is dropped.
struct Load {
    names: Vec<String>,
    sending: Vec<Sending>,
    pods: Pods,
    _sink: Process,
}

impl Load {
    fn new() -> Self {
        let names: Vec<String> = (0..CAPTURES).map(|number| format!("p{number}")).collect();
        let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
        all.push("sink");
        let pods = Pods::with(&all).unwrap();
        let sink = sink(pods.pod("sink"), PORT).unwrap();
        Self { names, sending: Vec::new(), pods, _sink: sink }
    }

    fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.names.iter().map(|name| self.pods.pod(name))
    }

    /// Labels all pods and waits until they are captured.
    fn capture(&self, agent: &mut Agent) {
        for pod in self.pods() {
            agent
                .apply(&format!("{}.yaml", pod.name), &labelled(pod, &[("filter", "udp port 9000")]))
                .unwrap();
        }
        agent.wait("all to be captured", SOON, |records| all_attached(records).then_some(())).unwrap();
    }

    /// Lets all pods send: two of them so much that it is written past the page cache.
    fn start(&mut self) {
        let to = self.pods.pod("sink");
        for (number, name) in self.names.iter().enumerate() {
            let (rate, frame) = if number < 2 { (10_000, 1400) } else { (1_000, 200) };
            let flood =
                Flood { rate: Some(rate), frame, ..Flood::new(self.pods.pod(name), to, PORT, u64::MAX) };
            self.sending.push(flood.start().unwrap());
        }
    }

    fn attached(&self) -> usize {
        self.pods().filter(|pod| Attached::on(&pod.host_interface).unwrap().any()).count()
    }
}

fn all_attached(records: &[Record]) -> bool {
    records.len() == CAPTURES && records.iter().all(|record| ATTACHED.contains(&record.state()))
}

/// Capture files of a run as they are on the disk, oldest first.
fn on_disk(record: &Record) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> =
        std::fs::read_dir(record.directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "pcapng"));
    files.sort();
    files
}

/// Numbers and times (ns) of a run's packets in those files.
fn packets<'a>(files: impl IntoIterator<Item = &'a std::path::PathBuf>) -> (Vec<u64>, Vec<u64>) {
    let (mut found, mut times) = (Vec::new(), Vec::new());
    for file in files {
        let read = blocks::read(file).unwrap();
        found.extend(numbers(&read.packets, PORT));
        times.extend(read.packets.iter().map(|packet| packet.time));
    }
    (found, times)
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

fn in_nanoseconds(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap()
}

fn run_json(directory: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(directory.join("run.json")).unwrap()).unwrap()
}

const SECOND: u64 = 1_000_000_000;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_agent_killed_under_load_loses_a_second_at_most_and_goes_on_within_two() {
    let mut load = Load::new();
    let mut agent = Agent::start_with("killed", CONFIGURATION, &[]).unwrap();
    load.capture(&mut agent);
    load.start();
    std::thread::sleep(Duration::from_millis(1500));
    let stalls = Stalls::watch();
    std::thread::sleep(Duration::from_secs(1));
    let killed = now();
    agent.kill();
    let stalled = in_nanoseconds(stalls.so_far());

    let deadline = Instant::now() + SOON;
    while load.attached() > 0 {
        assert!(Instant::now() < deadline, "{} interfaces are still tapped", load.attached());
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = agent.records().unwrap();
    assert_eq!(before.len(), CAPTURES);
    let mut files_before = Vec::new();
    let mut worst = 0;
    for record in &before {
        let files = on_disk(record);
        // Nobody has mended anything yet.
        let (found, times) = packets(&files);
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "{}", record.name());
        let lost = killed.saturating_sub(*times.last().unwrap());
        assert!(lost <= SECOND + stalled, "{}: {} ms are lost", record.name(), lost / 1_000_000);
        worst = worst.max(lost);
        files_before.push(files);
    }
    for files in files_before.iter().take(4) {
        agree(files.last().unwrap()).unwrap();
    }

    let (restarted, stalls) = (now(), Stalls::watch());
    agent.start_again().unwrap();
    agent
        .wait("new files", SOON, |records| {
            let grown = |record: &Record| {
                on_disk(record)
                    .last()
                    .is_some_and(|file| !files_before.iter().any(|files| files.contains(file)))
            };
            (all_attached(records) && records.iter().all(grown)).then_some(())
        })
        .unwrap();
    let stalled = in_nanoseconds(stalls.so_far());
    std::thread::sleep(Duration::from_millis(500));
    load.sending.clear();
    for pod in load.pods() {
        agent.apply(&format!("{}.yaml", pod.name), &self::pod(pod)).unwrap();
    }
    let after = agent
        .wait("all to be over", SOON, |records| {
            records.iter().all(|record| record.state() == "Stopped").then(|| records.to_vec())
        })
        .unwrap();
    let mut slowest = 0;
    for ((before, after), old) in before.iter().zip(&after).zip(&files_before) {
        assert_eq!(before.name(), after.name(), "the same run");
        let files = after.files();
        assert_eq!(files, on_disk(after), "all are known, and nothing else is there");
        assert!(files.starts_with(old) && files.len() > old.len(), "new files");
        let (earlier, _) = packets(old);
        let (later, times) = packets(&files[old.len()..]);
        assert!(later[0] > *earlier.last().unwrap());
        assert_eq!(later, (later[0]..later[0] + later.len() as u64).collect::<Vec<_>>(), "a gap");
        assert_eq!(after.packets(), (earlier.len() + later.len()) as u64);
        let away = times[0].saturating_sub(restarted);
        assert!(away <= 2 * SECOND + stalled, "{}: back after {} ms", after.name(), away / 1_000_000);
        slowest = slowest.max(away);
    }
    let left: Vec<_> = std::fs::read_dir(after[0].directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none_or(|extension| extension != "pcapng"))
        .collect();
    assert_eq!(left, [after[0].directory().join("run.json")], "nothing half-made is left");
    eprintln!("lost at most {} ms; the last one back after {} ms", worst / 1_000_000, slowest / 1_000_000);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_agent_told_to_stop_under_load_stops_at_once_and_closes_every_file() {
    let mut load = Load::new();
    let mut agent = Agent::start_with("told", CONFIGURATION, &[]).unwrap();
    load.capture(&mut agent);
    load.start();
    std::thread::sleep(Duration::from_millis(2500));
    let (told, stalls) = ((now(), Instant::now()), Stalls::watch());
    assert!(agent.stop().unwrap().success());
    let (took, stalled) = (told.1.elapsed(), stalls.so_far());
    assert!(took < Duration::from_secs(5) + stalled, "{took:?}");
    assert_eq!(load.attached(), 0);
    load.sending.clear();

    let records = agent.records().unwrap();
    assert_eq!(records.len(), CAPTURES);
    let mut latest = 0;
    for record in &records {
        assert_eq!((record.state(), record.reason()), ("Pending", "AgentStopped"));
        let files = record.files();
        let (found, times) = packets(&files);
        latest = latest.max(times.last().unwrap().saturating_sub(told.0));
        // Nothing that was counted is missing: what was in the rings was still written.
        assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "{}", record.name());
        let matched = record.from_pod().matched;
        assert_eq!((record.packets(), record.dropped()), (matched, 0), "{}", record.name());
        assert_eq!(found.len() as u64, matched, "{}", record.name());
        for file in &files {
            assert!(!blocks::read(file).unwrap().statistics.is_empty(), "closed");
        }
        let run = run_json(&record.directory());
        assert!(run["files"].as_array().unwrap().iter().all(|file| file["closed"] == true), "{run}");
    }
    let most = SECOND / 4 + in_nanoseconds(stalled);
    assert!(latest < most, "captured {} ms after the signal", latest / 1_000_000);
    agree(&records[0].files()[0]).unwrap();
    eprintln!("over after {took:?}, the last packet {} ms after the signal", latest / 1_000_000);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_agent_told_to_stop_while_it_attaches_leaves_the_rest_to_the_next() {
    let mut load = Load::new();
    let mut agent = Agent::start_with("hurry", CONFIGURATION, &[]).unwrap();
    agent.wait_ready().unwrap();
    load.start();
    for pod in load.pods() {
        agent.apply(&format!("{}.yaml", pod.name), &labelled(pod, &[("filter", "udp port 9000")])).unwrap();
    }
    let mut worst = Duration::ZERO;
    // While filters are compiled, taps loaded, attached, the last ones attached.
    for milliseconds in [0, 10, 30, 60, 100, 150] {
        std::thread::sleep(Duration::from_millis(milliseconds));
        let (told, stalls) = (Instant::now(), Stalls::watch());
        assert!(agent.stop().unwrap().success());
        worst = worst.max(told.elapsed().saturating_sub(stalls.so_far()));
        assert_eq!(load.attached(), 0);
        for record in agent.records().unwrap() {
            for file in on_disk(&record) {
                let read = blocks::read(&file).unwrap();
                assert!(!read.statistics.is_empty(), "{} is not closed", file.display());
            }
        }
        agent.start_again().unwrap();
        agent.wait_ready().unwrap();
    }
    assert!(worst < Duration::from_secs(5), "{worst:?}");
    agent.wait("all to be captured", SOON, |records| all_attached(records).then_some(())).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    load.sending.clear();
    for pod in load.pods() {
        agent.apply(&format!("{}.yaml", pod.name), &self::pod(pod)).unwrap();
    }
    agent
        .wait("all to be over", SOON, |records| {
            records.iter().all(|record| record.state() == "Stopped").then_some(())
        })
        .unwrap();
    for record in agent.records().unwrap() {
        let (found, _) = packets(&record.files());
        assert!(!found.is_empty() && found.is_sorted_by(|one, next| one < next), "{}", record.name());
        assert_eq!((record.packets(), record.dropped()), (found.len() as u64, 0), "{}", record.name());
    }
    eprintln!("over after {worst:?} at most");
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_agent_killed_at_any_moment_leaves_nothing_that_stops_the_next() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start("moments").unwrap();
    agent.apply("a.yaml", &labelled(a, &[("filter", "udp port 9000")])).unwrap();
    let sending =
        Flood { rate: Some(2_000), frame: 1000, ..Flood::new(a, b, PORT, u64::MAX) }.start().unwrap();
    // Loading, attaching, opening the first file, writing it, mending what was left.
    for milliseconds in [5, 30, 60, 90, 120, 150, 200, 300, 650, 700] {
        std::thread::sleep(Duration::from_millis(milliseconds));
        agent.kill();
        agent.start_again().unwrap();
    }
    let record = agent.wait_pod("a", &["Capturing"]).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    drop(sending);
    agent.apply("a.yaml", &pod(a)).unwrap();
    let over = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.name(), over.name(), "one run through all of it");
    assert_eq!(over.files(), on_disk(&over));
    let (found, _) = packets(&over.files());
    assert!(found.is_sorted_by(|one, next| one < next));
    assert_eq!(over.packets(), found.len() as u64);
    assert!(!Attached::on(&a.host_interface).unwrap().any());
    let named = output(Command::new("find").arg(agent.data_dir()).args(["-type", "f"])).unwrap();
    let stray =
        |line: &&str| !(line.ends_with(".pcapng") || line.ends_with(".json") || line.ends_with("lock"));
    assert_eq!(named.lines().filter(stray).collect::<Vec<_>>(), Vec::<&str>::new());
}
