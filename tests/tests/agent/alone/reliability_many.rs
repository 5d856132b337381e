//! As many captures at once as a node may have.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::HashSet;
use std::time::{Duration, Instant};

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::Attached;
use podtap_tests::manifest::{labelled, pod};
use podtap_tests::memory;
use podtap_tests::pods::{Pod, Pods};
use podtap_tests::stalls::Stalls;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, numbers, sink};

const CAPTURES: usize = 250;
const PORT: u16 = 9000;
const CONFIGURATION: &str = "memoryBudget: 512Mi\ncaps: {capturesPerNamespace: 1000}\n";
const BUDGET: u64 = 512 << 20;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn every_one_of_250_pods_labelled_at_once_has_its_own_packets() {
    let start = Instant::now();
    let names: Vec<String> = (0..CAPTURES).map(|number| format!("p{number}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("sink");
    let pods = Pods::with(&all).unwrap();
    let captured: Vec<&Pod> = names.iter().map(|name| pods.pod(name)).collect();
    let _sink = sink(pods.pod("sink"), PORT).unwrap();
    eprintln!("pods made in {:?}", start.elapsed());
    for mode in ["tcx", "socket"] {
        one_round(&captured, pods.pod("sink"), mode);
    }
    let start = Instant::now();
    drop(pods);
    eprintln!("pods gone in {:?}", start.elapsed());
}

/// How many packets a pod sends: not as many as its neighbours.
fn share(number: usize) -> u64 {
    10 + number as u64 % 7
}

fn one_round(captured: &[&Pod], sink: &Pod, mode: &str) {
    let mut agent = Agent::start_with("many", CONFIGURATION, &["--attach-mode", mode]).unwrap();
    agent.wait_ready().unwrap();
    let start = Instant::now();
    for one in captured {
        agent.apply(&format!("{}.yaml", one.name), &labelled(one, &[("filter", "udp port 9000")])).unwrap();
    }
    agent
        .wait("all to be captured", Duration::from_secs(60), |records| {
            let good = records.iter().filter(|record| ATTACHED.contains(&record.state())).count();
            (good == CAPTURES).then_some(())
        })
        .unwrap();
    let attached = start.elapsed();
    for one in captured {
        let found = Attached::on(&one.host_interface).unwrap();
        assert!(if mode == "tcx" { found.tcx == 2 } else { found.sockets == 1 }, "{}: {found:?}", one.name);
    }
    for (number, one) in captured.iter().enumerate() {
        assert_eq!(Flood::new(one, sink, PORT, share(number)).run().unwrap().packets, share(number));
    }
    let memory = memory::of(agent.process().id()).unwrap();
    assert!(memory.total() <= BUDGET + (64 << 20), "{memory:?}");

    let (told, stalls) = (Instant::now(), Stalls::watch());
    agent.process().signal(libc::SIGTERM).unwrap();
    let closed = loop {
        let records = agent.records().unwrap();
        if records.iter().all(|record| record.reason() == "AgentStopped") {
            break told.elapsed();
        }
        assert!(told.elapsed() < SOON, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(closed < Duration::from_secs(5) + stalls.so_far(), "{closed:?}");
    // The kernel takes all programs off one after the other.
    agent.process().wait(Duration::from_secs(30)).unwrap();
    let over = told.elapsed();
    assert!(captured.iter().all(|one| !Attached::on(&one.host_interface).unwrap().any()));

    let records = agent.records().unwrap();
    assert_eq!(records.len(), CAPTURES);
    let mut seen = HashSet::new();
    for record in &records {
        let number: usize = record.pod()[1..].parse().unwrap();
        assert!(seen.insert(number));
        let files = record.read().unwrap();
        let packets: Vec<_> = files.iter().flat_map(|file| &file.packets).collect();
        let [read] = &files[..] else { panic!("{} files", files.len()) };
        assert_eq!(numbers(&read.packets, PORT), (0..share(number)).collect::<Vec<_>>(), "{mode} p{number}");
        assert!(packets.iter().all(|packet| packet.data[6..12] == captured[number].mac), "of another pod");
        assert_eq!((record.packets(), record.dropped()), (share(number), 0));
    }
    agree(&records[CAPTURES - 1].files()[0]).unwrap();
    eprintln!(
        "{mode}: attached after {attached:?}, {} MiB ({} own), files closed {closed:?} and over {over:?} after SIGTERM",
        memory.total() >> 20,
        memory.own >> 20,
    );

    // And taken back all at once.
    if mode == "socket" {
        agent.start_again().unwrap();
        agent
            .wait("all to be captured again", Duration::from_secs(60), |records| {
                let good = records.iter().filter(|record| ATTACHED.contains(&record.state())).count();
                (good == CAPTURES).then_some(())
            })
            .unwrap();
        for one in captured {
            agent.apply(&format!("{}.yaml", one.name), &pod(one)).unwrap();
        }
        agent
            .wait("all to be over", Duration::from_secs(60), |records| {
                records.iter().all(|record| record.state() == "Stopped").then_some(())
            })
            .unwrap();
        assert!(captured.iter().all(|one| !Attached::on(&one.host_interface).unwrap().any()));
    }
}
