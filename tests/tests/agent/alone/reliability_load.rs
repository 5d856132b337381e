//! More than the agent can take: of packets, of captures.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::attached::Attached;
use podtap_tests::manifest::{labelled, pod};
use podtap_tests::pods::Pods;
use podtap_tests::record::Record;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, Sending, sink};

const PORT: u16 = 9000;
const FILTER: (&str, &str) = ("filter", "udp port 9000");

/// The option of a statistics block that counts what was lost on the way to the agent.
const OS_DROP: u16 = 7;

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn what_a_stopped_process_loses_is_counted_to_the_packet() {
    const RATE: u64 = 50_000;
    const PACKETS: u64 = 8 * RATE;
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let mut agent = Agent::start("stopped").unwrap();
    agent.apply("a.yaml", &labelled(a, &[FILTER])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    let sending = Flood { rate: Some(RATE), frame: 500, ..Flood::new(a, b, PORT, PACKETS) }.start().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    agent.process().signal(libc::SIGSTOP).unwrap();
    std::thread::sleep(Duration::from_secs(5));
    agent.process().signal(libc::SIGCONT).unwrap();
    assert_eq!(sending.wait().unwrap().packets, PACKETS);
    agent.apply("a.yaml", &pod(a)).unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    let numbers = record.numbers(PORT).unwrap();
    let kept = numbers.len() as u64;
    assert_eq!(record.from_pod().matched, PACKETS);
    assert_eq!(record.packets(), kept);
    assert_eq!(kept + record.drops("ring"), PACKETS, "each packet is in a file or counted as lost");
    assert_eq!(record.dropped(), record.drops("ring"));
    // Five seconds are far more than a ring holds, and three far more than it takes to come back.
    assert!((3 * RATE / 2..4 * RATE).contains(&kept), "{kept}");
    let gap = |pair: &[u64]| pair[1] - pair[0] - 1;
    let gaps: Vec<u64> = numbers.windows(2).map(gap).filter(|&gap| gap > 0).collect();
    assert_eq!(gaps.iter().sum::<u64>(), record.drops("ring"), "all were lost in between");
    assert_eq!((numbers[0], *numbers.last().unwrap()), (0, PACKETS - 1));
    let files = record.read().unwrap();
    let told = files.last().unwrap().statistics.last().unwrap();
    let os_drop =
        told.iter().find(|(code, _)| *code == OS_DROP).map(|(_, value)| value[..].try_into().unwrap());
    assert_eq!(os_drop.map(u64::from_le_bytes), Some(record.drops("ring")), "the file tells of it");
    for file in record.files() {
        agree(&file).unwrap();
    }
    eprintln!("{} of {PACKETS} packets lost in {} gaps", record.drops("ring"), gaps.len());
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_flood_in_one_pod_costs_another_no_packet() {
    const RATE: u64 = 1_000;
    const SECONDS: u64 = 3;
    let pods = Pods::with(&["loud", "quiet", "b"]).unwrap();
    let (loud, quiet, b) = (pods.pod("loud"), pods.pod("quiet"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    for frame in [64, 1400] {
        // As much as it can, without an end.
        const CONFIGURATION: &str = "defaults: {bytes: 100Gi, rotation: {files: 4}}\ncaps: {bytes: 100Gi}\n";
        let mut agent = Agent::start_with("neighbour", CONFIGURATION, &[]).unwrap();
        for one in [loud, quiet] {
            agent.apply(&format!("{}.yaml", one.name), &labelled(one, &[FILTER])).unwrap();
            agent.wait_pod(&one.name, &ATTACHED).unwrap();
        }
        let seconds = SECONDS as f64 + 1.0;
        let flood =
            Flood { frame, seconds: Some(seconds), cpu: Some(0), ..Flood::new(loud, b, PORT, u64::MAX) };
        let flood = flood.start().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let few = Flood { rate: Some(RATE), cpu: Some(1), ..Flood::new(quiet, b, PORT, SECONDS * RATE) };
        assert_eq!(few.run().unwrap().packets, SECONDS * RATE);
        let sent = flood.wait().unwrap();
        for one in [loud, quiet] {
            agent.apply(&format!("{}.yaml", one.name), &pod(one)).unwrap();
        }
        let record = agent.wait_pod("quiet", &["Stopped"]).unwrap();
        assert_eq!(record.dropped(), 0);
        assert_eq!(record.numbers(PORT).unwrap(), (0..SECONDS * RATE).collect::<Vec<_>>());
        let record = agent.wait_pod("loud", &["Stopped"]).unwrap();
        assert_eq!(record.from_pod().matched, sent.packets);
        assert_eq!(record.packets() + record.dropped(), sent.packets);
        eprintln!(
            "{frame} B: {:.0} packets/s beside it, of which {} lost",
            sent.packets as f64 / sent.seconds,
            record.dropped()
        );
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_capture_beyond_the_memory_budget_is_refused_and_costs_the_others_nothing() {
    // 10 MiB for rings: the first gets 4, six more 1 each.
    const FIT: usize = 7;
    const CONFIGURATION: &str = "memoryBudget: 16Mi\ncaps: {capturesPerNamespace: 100}\n";
    const RATE: u64 = 2_000;
    let names: Vec<String> = (0..=FIT).map(|number| format!("p{number}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("sink");
    let pods = Pods::with(&all).unwrap();
    let to = pods.pod("sink");
    let _sink = sink(to, PORT).unwrap();
    let mut agent = Agent::start_with("budget", CONFIGURATION, &[]).unwrap();
    let label = |agent: &Agent, name: &str, annotations: &[(&str, &str)]| {
        agent.apply(&format!("{name}.yaml"), &labelled(pods.pod(name), annotations)).unwrap();
    };
    let unlabel = |agent: &Agent, name: &str| {
        agent.apply(&format!("{name}.yaml"), &pod(pods.pod(name))).unwrap();
    };
    for name in &names[..FIT] {
        label(&agent, name, &[FILTER]);
        agent.wait_pod(name, &ATTACHED).unwrap();
    }
    let sending: Vec<Sending> = names[..FIT]
        .iter()
        .map(|name| {
            let flood = Flood { rate: Some(RATE), ..Flood::new(pods.pod(name), to, PORT, 4 * RATE) };
            flood.start().unwrap()
        })
        .collect();
    let last = names[FIT].as_str();
    label(&agent, last, &[FILTER]);
    let refused = agent.wait_pod(last, &["Refused"]).unwrap();
    assert_eq!(refused.reason(), "BudgetExhausted");
    assert!(refused.message().contains("memoryBudget"), "{}", refused.message());
    assert!(!Attached::on(&pods.pod(last).host_interface).unwrap().any());
    // A change needs a second ring for a moment. One that keeps more out of the files would not wait for it.
    label(&agent, &names[1], &[("filter", "udp port 9000 or tcp")]);
    let kept = agent
        .wait("the change to wait", SOON, |records| {
            let own = records.iter().find(|record| record.pod() == names[1])?;
            own.json().pointer("/status/notes/0").is_some().then(|| own.clone())
        })
        .unwrap();
    assert!(ATTACHED.contains(&kept.state()), "{}", kept.state());
    for one in sending {
        assert_eq!(one.wait().unwrap().packets, 4 * RATE);
    }
    for name in &names[..FIT] {
        unlabel(&agent, name);
        let record = agent.wait_pod(name, &["Stopped"]).unwrap();
        assert_eq!((record.packets(), record.dropped()), (4 * RATE, 0), "{name}");
        assert_eq!(record.numbers(PORT).unwrap(), (0..4 * RATE).collect::<Vec<_>>(), "{name}");
    }

    // Asked again, now that there is room.
    unlabel(&agent, last);
    let released = |records: &[Record]| records.iter().filter(|record| record.pod() == last).count();
    std::thread::sleep(Duration::from_millis(300));
    label(&agent, last, &[FILTER]);
    let again = agent
        .wait("the second request", SOON, |records| {
            let new = |record: &&Record| record.pod() == last && ATTACHED.contains(&record.state());
            records.iter().find(new).cloned()
        })
        .unwrap();
    assert_ne!(again.name(), refused.name(), "a run of its own");
    assert_eq!(released(&agent.records().unwrap()), 2, "the refusal stays on record");
    Flood::new(pods.pod(last), to, PORT, 100).run().unwrap();
    unlabel(&agent, last);
    let over = agent
        .wait("its end", SOON, |records| {
            records
                .iter()
                .find(|record| record.name() == again.name() && record.state() == "Stopped")
                .cloned()
        })
        .unwrap();
    assert_eq!(over.packets(), 100);
}
