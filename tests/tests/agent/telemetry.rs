//! The agent's metrics and health, asked over HTTP.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent, SOON};
use podtap_tests::manifest::{labelled, packet_capture, pod};
use podtap_tests::metrics::{Metrics, Sample, free_address, get, wait_for_status};
use podtap_tests::pods::Pods;
use podtap_tests::process::program;
use podtap_tests::traffic::{Flood, sink};
use serde_json::{Value, json};

const PORT: u16 = 9000;
const FILTER: (&str, &str) = ("filter", "udp port 9000");

/// An agent that can be asked, and where.
fn agent(name: &str, configuration: &str) -> (Agent, SocketAddr) {
    let address = free_address().unwrap();
    let configuration = format!("httpAddress: {address}\n{configuration}");
    let mut agent = Agent::start_with(name, &configuration, &[]).unwrap();
    agent.wait_ready().unwrap();
    (agent, address)
}

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

fn scrape_until(address: SocketAddr, what: &str, told: impl Fn(&Metrics) -> bool) -> Metrics {
    Metrics::scrape_until(address, what, SOON, told).unwrap()
}

fn runs(metrics: &Metrics, namespace: &str, state: &str) -> u64 {
    metrics.count("podtap_runs", &[("namespace", namespace), ("state", state)]).unwrap_or(0)
}

/// All counters, by series.
fn counters(metrics: &Metrics) -> BTreeMap<(String, BTreeMap<String, String>), f64> {
    let of = metrics.samples().filter(|sample| sample.name.ends_with("_total"));
    of.map(|sample| ((sample.name.clone(), sample.labels.clone()), sample.value)).collect()
}

fn sizes(files: &[std::path::PathBuf]) -> u64 {
    files.iter().map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn numbers_are_those_of_records_and_files_and_stay_when_these_are_gone() {
    let pods = Pods::with(&["a", "c", "b"]).unwrap();
    let (a, b, c) = (pods.pod("a"), pods.pod("b"), pods.pod("c"));
    let _sink = sink(b, PORT).unwrap();
    let (mut agent, address) = agent("numbers", "defaults: {retention: 8s}\n");
    wait_for_status(address, "/readyz", 200, SOON).unwrap();
    agent.apply("a.yaml", &labelled(a, &[FILTER])).unwrap();
    agent.apply("c.yaml", &in_namespace(pod(c), "team-c")).unwrap();
    let spec = json!({"podNames": ["c"], "filter": FILTER.1, "direction": "FromPod", "sample": 10});
    agent.apply("sampled.yaml", &in_namespace(packet_capture("sampled", spec), "team-c")).unwrap();
    for name in ["a", "c"] {
        agent.wait_pod(name, &ATTACHED).unwrap();
    }
    let during = scrape_until(address, "two taps", |metrics| {
        metrics.count("podtap_taps_attached", &[]).unwrap() == 2
            && runs(metrics, "team-c", "WaitingForTraffic") == 1
    });
    let used = |metrics: &Metrics, part| {
        metrics.count("podtap_memory_budget_used_bytes", &[("part", part)]).unwrap()
    };
    let limit = during.count("podtap_memory_budget_limit_bytes", &[]).unwrap();
    assert!((255 << 20..=256 << 20).contains(&limit), "{limit}");
    assert!(used(&during, "rings") >= 2 << 20, "{}", used(&during, "rings"));
    let mode = agent.records().unwrap()[0].attach_mode().to_owned();
    assert_eq!(during.count("podtap_attach_mode_info", &[("mode", &mode)]).unwrap(), 1);
    assert_eq!(during.count("podtap_taps_attached", &[("mode", &mode)]).unwrap(), 2);
    assert!(during.count("podtap_filters_total", &[("result", "Compiled")]).unwrap() >= 2);

    Flood::new(a, b, PORT, 300).run().unwrap();
    Flood { rate: Some(20_000), ..Flood::new(c, b, PORT, 1000) }.run().unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    agent.remove("sampled.yaml").unwrap();
    let records = ["a", "c"].map(|name| agent.wait_pod(name, &["Stopped"]).unwrap());
    let kept =
        records.clone().map(|record| (record.numbers(PORT).unwrap().len() as u64, sizes(&record.files())));
    let after = scrape_until(address, "both stopped", |metrics| {
        ["default", "team-c"].iter().all(|namespace| runs(metrics, namespace, "Stopped") == 1)
    });
    assert_eq!((after.count("podtap_taps_attached", &[]).unwrap(), used(&after, "rings")), (0, 0));
    for ((record, namespace), (packets, bytes)) in records.iter().zip(["default", "team-c"]).zip(kept) {
        let of = |name: &str, labels: &[(&str, &str)]| {
            let labels: Vec<(&str, &str)> =
                [("namespace", namespace)].into_iter().chain(labels.iter().copied()).collect();
            after.count(name, &labels).unwrap()
        };
        for (name, direction) in [("FromPod", record.from_pod()), ("ToPod", record.to_pod())] {
            let way = [("direction", name)];
            assert_eq!(of("podtap_packets_seen_total", &way), direction.seen, "{name}");
            assert_eq!(of("podtap_packets_matched_total", &way), direction.matched);
            assert_eq!(of("podtap_packets_captured_total", &way), direction.captured);
            assert_eq!(of("podtap_captured_bytes_total", &way), direction.bytes);
        }
        for cause in ["ring", "rate", "storage"] {
            assert_eq!(of("podtap_packets_dropped_total", &[("cause", cause)]), record.drops(cause));
        }
        assert_eq!(of("podtap_packets_written_total", &[]), packets);
        assert_eq!(record.packets(), packets);
        assert_eq!(of("podtap_written_bytes_total", &[]), bytes);
        assert_eq!(of("podtap_files_total", &[]), record.files().len() as u64);
        let directory = of("podtap_namespace_used_bytes", &[]);
        assert!(
            (bytes + 1..bytes + 16384).contains(&directory),
            "files have {bytes}, with run.json {directory}"
        );
    }
    let sampled = after.count("podtap_packets_sampled_out_total", &[("namespace", "team-c")]).unwrap();
    let matched = records[1].from_pod().matched;
    // CPUs count by themselves.
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(matched == 1000 && sampled.abs_diff(900) <= cpus, "{sampled} of {matched}");
    let used: u64 = after.count("podtap_namespace_used_bytes", &[]).unwrap();
    assert_eq!(after.count("podtap_data_dir_used_bytes", &[]).unwrap(), used);

    // The files and records go, and what was counted stays.
    agent.wait("retention to end", SOON, |records| records.is_empty().then_some(())).unwrap();
    let gone = scrape_until(address, "no runs", |metrics| metrics.count("podtap_runs", &[]).unwrap() == 0);
    let now = counters(&gone);
    for (series, value) in counters(&after) {
        assert!(
            now.get(&series).is_some_and(|now| *now >= value),
            "{series:?} was {value}: {:?}",
            now.get(&series)
        );
    }
    assert_eq!(gone.count("podtap_packets_written_total", &[("namespace", "default")]).unwrap(), 300);
    assert_eq!(gone.count("podtap_data_dir_used_bytes", &[]).unwrap(), 0);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_agent_counts_what_it_captures_itself_and_not_what_it_finds() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let (mut agent, address) = agent("found", "");
    agent.apply("a.yaml", &labelled(a, &[FILTER])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, PORT, 100).run().unwrap();
    // The file is open when the agent is killed, and mended by the next one.
    agent.wait_on_disk("a", PORT, 100).unwrap();
    agent.kill();
    agent.start_again().unwrap();
    agent.wait_ready().unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    Flood::new(a, b, PORT, 30).run().unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.packets(), 130);
    let metrics = scrape_until(address, "the end", |metrics| runs(metrics, "default", "Stopped") == 1);
    let own = |name: &str| metrics.count(name, &[("namespace", "default")]).unwrap();
    assert_eq!(metrics.count("podtap_packets_matched_total", &[("direction", "FromPod")]).unwrap(), 30);
    assert_eq!((own("podtap_packets_written_total"), own("podtap_files_total")), (30, 1));
    let newest = record.files().last().unwrap().metadata().unwrap().len();
    assert_eq!(own("podtap_written_bytes_total"), newest);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn refusals_and_links_are_counted() {
    let pods = Pods::with(&["a", "b"]).unwrap();
    let a = pods.pod("a");
    let (mut agent, address) = agent("refusals", "");
    let links = |kind: &str| {
        Metrics::scrape(address).unwrap().count("podtap_link_events_total", &[("kind", kind)]).unwrap()
    };
    let before = (links("Changed"), links("Removed"));
    pods.disconnect(pods.pod("b")).unwrap();
    pods.connect(pods.pod("b")).unwrap();
    agent.apply("a.yaml", &labelled(a, &[("filter", "tcp porrt 80")])).unwrap();
    agent.wait_pod("a", &["Refused"]).unwrap();
    let metrics = scrape_until(address, "one refused", |metrics| runs(metrics, "default", "Refused") == 1);
    let filters = |result: &str| metrics.count("podtap_filters_total", &[("result", result)]).unwrap();
    assert_eq!((filters("Refused"), filters("Compiled"), filters("Failed")), (1, 0, 0));
    assert!(links("Changed") > before.0 && links("Removed") > before.1);
}

/// Rows of the table in `docs/metrics.md`: name, type, labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = std::fs::read_to_string(file).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `podtap_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let labels = cells[2].split(", ").filter(|label| !label.is_empty()).map(str::to_owned).collect();
        (format!("podtap_{}", cells[0].trim_end_matches('`')), (cells[1].to_owned(), labels))
    })
    .collect()
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn the_documentation_lists_what_is_served() {
    let pods = Pods::with(&["a"]).unwrap();
    let (mut agent, address) = agent("documented", "quota: 10Gi\nquotaPerNamespace: 1Gi\n");
    agent.apply("a.yaml", &labelled(pods.pod("a"), &[FILTER])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    let metrics =
        scrape_until(address, "a run", |metrics| runs(metrics, "default", "WaitingForTraffic") == 1);
    let mut served = BTreeMap::new();
    for (name, family) in &metrics.families {
        assert!(family.help.len() > 10 && family.help.ends_with('.'), "{name}: {:?}", family.help);
        let first = family.samples.first().unwrap_or_else(|| panic!("{name} has no value"));
        let histogram = family.kind == "histogram";
        let labels = |sample: &Sample| -> BTreeSet<String> {
            sample.labels.keys().filter(|&key| !histogram || key != "le").cloned().collect()
        };
        for sample in &family.samples {
            assert_eq!(labels(sample), labels(first), "{name}");
        }
        let shown = if histogram { name } else { &first.name };
        served.insert(shown.clone(), (family.kind.clone(), labels(first)));
    }
    assert_eq!(served, documented());
    let threads: BTreeSet<&str> = metrics.families["podtap_thread_silence_seconds"]
        .samples
        .iter()
        .map(|sample| sample.labels["thread"].as_str())
        .collect();
    assert_eq!(threads, BTreeSet::from(["engine", "consumer", "writer-0", "writer-1"]));
    let process = |name: &str| metrics.value(&format!("podtap_process_{name}"), &[]).unwrap();
    assert!(process("resident_memory_bytes") > 1e6 && process("cpu_seconds_total") > 0.0);
    assert!(process("open_fds") > 5.0 && process("max_fds") >= process("open_fds"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 60.0..=now).contains(&process("start_time_seconds")));
}

/// Namespaces get numbers of their own up to a bound, and none is lost beyond it.
#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn namespaces_beyond_the_bound_share_their_numbers() {
    const NAMESPACES: usize = 205;
    const BOUND: u64 = 200;
    let pods = Pods::with(&["a"]).unwrap();
    let (agent, address) = agent("namespaces", "");
    for number in 0..NAMESPACES {
        // None has an interface: they only wait.
        let mut one = in_namespace(labelled(pods.pod("a"), &[]), &format!("n{number}"));
        one["metadata"]["annotations"]["podtap.dev/interface"] = json!("not-there");
        one["metadata"]["uid"] = json!(format!("uid-{number}"));
        agent.apply(&format!("{number}.yaml"), &one).unwrap();
    }
    let metrics = scrape_until(address, "all runs", |metrics| {
        metrics.count("podtap_runs", &[("state", "Pending")]).is_ok_and(|runs| runs == NAMESPACES as u64)
    });
    assert_eq!(runs(&metrics, "_other", "Pending"), NAMESPACES as u64 - BOUND);
    let namespaces = metrics.families["podtap_packets_written"].samples.len() as u64;
    assert_eq!(namespaces, BOUND + 1);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_data_directory_that_takes_nothing_makes_the_agent_unready_and_not_unhealthy() {
    let address = free_address().unwrap();
    let mut agent = Agent::start_on_disk("unready", &format!("httpAddress: {address}\n"), 64).unwrap();
    agent.wait_ready().unwrap();
    wait_for_status(address, "/readyz", 200, SOON).unwrap();
    agent.disk().read_only().unwrap();
    let unready = wait_for_status(address, "/readyz", 503, SOON).unwrap();
    assert!(unready.body.contains("data directory") && unready.body.contains("read-only"), "{unready:?}");
    assert_eq!(get(address, "/healthz").unwrap().body, "ok\n");
    agent.disk().writable().unwrap();
    wait_for_status(address, "/readyz", 200, SOON).unwrap();
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_disk_that_hangs_makes_the_agent_unready_by_name_until_it_goes_on_and_gets_nobody_killed() {
    const PACKETS: u64 = 2000;
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let address = free_address().unwrap();
    let mut agent = Agent::start_on_disk("hangs", &format!("httpAddress: {address}\n"), 64).unwrap();
    agent.wait_ready().unwrap();
    agent.apply("a.yaml", &labelled(a, &[FILTER])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    wait_for_status(address, "/readyz", 200, SOON).unwrap();
    let frozen = agent.disk().freeze().unwrap();
    Flood { rate: Some(1000), ..Flood::new(a, b, PORT, PACKETS) }.run().unwrap();
    let ill = wait_for_status(address, "/readyz", 503, Duration::from_secs(25)).unwrap();
    assert!(ill.body.lines().all(|line| line.contains("has been stuck for 1")), "{ill:?}");
    let who = wait_for_status(address, "/readyz", 503, SOON).unwrap().body;
    assert!(who.contains("writer-") || who.contains("engine"), "{who}");
    assert!(!who.contains("consumer"), "packets are still taken out of the rings: {who}");
    assert_eq!(get(address, "/healthz").unwrap().body, "ok\n");
    // Whoever asks for numbers gets them all the same.
    assert!(Metrics::scrape(address).unwrap().value("podtap_thread_silence_seconds", &[]).unwrap() > 9.0);
    drop(frozen);
    wait_for_status(address, "/readyz", 200, SOON).unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert_eq!(record.numbers(PORT).unwrap(), (0..PACKETS).collect::<Vec<_>>(), "they have waited in memory");
}

/// Whoever sees that packets were dropped by a full ring must be able to tell a slow disk from a busy processor.
#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_disk_that_is_too_slow_shows_in_how_long_writes_take_and_rings_wait_for_buffers() {
    const PACKETS: u64 = 30_000;
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, PORT).unwrap();
    let address = free_address().unwrap();
    let configuration = format!("httpAddress: {address}\nmemoryBudget: 16Mi\n");
    let mut agent = Agent::start_on_disk("slow", &configuration, 64).unwrap();
    agent.wait_ready().unwrap();
    agent.apply("a.yaml", &labelled(a, &[FILTER])).unwrap();
    agent.wait_pod("a", &ATTACHED).unwrap();
    // The first file is there, so that nothing but blocks waits for the disk.
    let flood = Flood { rate: Some(20_000), frame: 1400, ..Flood::new(a, b, PORT, 100) };
    flood.run().unwrap();
    agent.wait_on_disk("a", PORT, 100).unwrap();
    let told = |metrics: &Metrics, name: &str| metrics.value(&format!("podtap_{name}"), &[]).unwrap();
    let before = Metrics::scrape(address).unwrap();
    assert!(told(&before, "write_seconds_count") >= 1.0 && told(&before, "write_seconds_sum") < 1.0);
    assert!(told(&before, "buffer_wait_seconds_count") == 0.0);

    let frozen = agent.disk().freeze().unwrap();
    Flood { packets: PACKETS, ..flood }.run().unwrap();
    drop(frozen);
    agent.apply("a.yaml", &pod(a)).unwrap();
    let record = agent.wait_pod("a", &["Stopped"]).unwrap();
    assert!(record.drops("ring") > 0 && record.drops("storage") == 0, "{}", record.json()["status"]["drops"]);
    assert_eq!(record.packets() + record.dropped(), PACKETS + 100);
    let after = scrape_until(address, "the end", |metrics| runs(metrics, "default", "Stopped") == 1);
    // 42 MB are sent in a second and a half, and ring and buffers have room for 10 of them.
    assert!(
        (0.5..10.0).contains(&told(&after, "write_seconds_sum")),
        "{}",
        told(&after, "write_seconds_sum")
    );
    assert!((0.5..10.0).contains(&told(&after, "buffer_wait_seconds_sum")));
    assert!(
        after.value("podtap_write_seconds_bucket", &[("le", "0.5")]).unwrap()
            < told(&after, "write_seconds_count")
    );
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn an_address_that_is_taken_is_said_at_the_start() {
    let (agent, address) = agent("taken", "");
    let configuration = agent.home().join("other.yaml");
    std::fs::write(&configuration, format!("httpAddress: {address}\n")).unwrap();
    let other = agent.home().join("other");
    std::fs::create_dir_all(&other).unwrap();
    let mut second = Command::new(program("capture-daemon").unwrap());
    second
        .arg("run")
        .arg("--pods")
        .arg(agent.pods_dir())
        .arg("--data-dir")
        .arg(&other)
        .arg("--config")
        .arg(configuration);
    let output = second.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains(&address.to_string()) && said.contains("httpAddress"),
        "{said}"
    );
}
