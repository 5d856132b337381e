//! What a cluster does to agents: no API server, a killed agent, a new version, a flood of requests.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::time::{Duration, Instant};

use podtap_tests::blocks;
use podtap_tests::cluster::podtap::{AGENT, ATTACHED, CAPTURE};
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, RunningPod, wait};
use podtap_tests::scratch::Scratch;
use podtap_tests::tools::agree;
use serde_json::Value;

/// Echo requests that a pod sends each second while a test looks at what becomes of them.
const RATE: u64 = 50;

/// A namespace with a pod `web` on node1 that is captured while it pings a peer, for as long as the test takes.
struct Scene<'a> {
    cluster: &'a Cluster,
    namespace: Namespace<'a>,
}

impl<'a> Scene<'a> {
    fn new(cluster: &'a Cluster, name: &str) -> Self {
        let namespace = Namespace::make(cluster, name, &[]).unwrap();
        namespace.allow(100).unwrap();
        let scene = Self { cluster, namespace };
        let peer = scene.namespace.run(&PodManifest::new("peer").on("node1")).unwrap();
        let ping = format!("ping -i {} {} >/dev/null", 1.0 / RATE as f64, peer.address);
        scene.namespace.run(&PodManifest::new("web").on("node1").shell(&ping)).unwrap();
        scene.namespace.kubectl(&["label", "pod", "web", &format!("{CAPTURE}=true")]).unwrap();
        scene.record("to capture", |record| record["status"]["state"] == "Capturing");
        scene
    }

    fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.namespace
            .wait_record(what, AGENT, |record| record["spec"]["pod"] == "web" && wanted(record))
            .unwrap()
    }

    /// Ends the capture and gives the echo requests' numbers, file by file, in order.
    fn sent(&self) -> Vec<Vec<u16>> {
        self.namespace.kubectl(&["label", "pod", "web", &format!("{CAPTURE}-")]).unwrap();
        let record = self.record("to end", |record| record["status"]["state"] == "Stopped");
        let drops = &record["status"]["drops"];
        assert!(["ring", "rate", "storage"].iter().all(|cause| drops[cause] == 0), "{record:#}");
        let scratch = Scratch::new("reliability").unwrap();
        let files = self.cluster.fetch(&record, &scratch).unwrap();
        let numbers = files.iter().map(|file| {
            agree(file).unwrap();
            let packets = blocks::read(file).unwrap().packets;
            let request = |data: &[u8]| data[12..14] == [8, 0] && data[23] == 1 && data[34] == 8;
            let requests = packets.iter().filter(|packet| packet.outbound && request(&packet.data));
            requests.map(|packet| u16::from_be_bytes([packet.data[40], packet.data[41]])).collect()
        });
        numbers.collect()
    }
}

/// How many numbers are missing between the first and the last.
fn missing(numbers: &[u16]) -> u64 {
    let gaps = numbers.windows(2).map(|two| u64::from(two[1].wrapping_sub(two[0]).wrapping_sub(1)));
    gaps.sum()
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn without_an_api_server_for_a_minute_nothing_is_lost_and_the_record_catches_up() {
    let cluster = Cluster::with_podtap().unwrap();
    if !cluster.is_own() {
        return eprintln!("not the project's own cluster: its API server is left alone");
    }
    let scene = Scene::new(&cluster, "away");
    let before = scene.record("to be there", |_| true)["status"]["packets"].as_u64().unwrap();
    cluster.stop("api").unwrap();
    std::thread::sleep(Duration::from_secs(60));
    cluster.start("api").unwrap();
    // Two directions for a minute, and a tenth less for a ping that is late.
    let least = before + 60 * 2 * RATE * 9 / 10;
    scene.record("to catch up", |record| record["status"]["packets"].as_u64() >= Some(least));
    let numbers = scene.sent().concat();
    assert!(numbers.len() as u64 > 60 * RATE * 9 / 10, "{}", numbers.len());
    assert_eq!(missing(&numbers), 0);
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_killed_agent_is_back_in_seconds_and_the_files_of_before_are_kept() {
    let cluster = Cluster::with_podtap().unwrap();
    if !cluster.is_own() {
        return eprintln!("not the project's own cluster: nothing is killed there");
    }
    let scene = Scene::new(&cluster, "killed");
    let name = scene.record("to be there", |_| true)["metadata"]["name"].clone();
    let restarts = || -> u64 {
        let agent = cluster.agent("node1").unwrap();
        agent["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
    };
    let before = restarts();
    // Nodes of the project's cluster share a host, and see each other's processes.
    let kill = "for pid in $(pgrep -f '^/usr/bin/capture-daemon run'); do \
                grep -qz '^NODE_NAME=node1$' /proc/$pid/environ && kill -9 $pid; done; true";
    cluster.on("node1", &["sh", "-c", kill]).unwrap();
    let killed = Instant::now();
    wait("the agent to be started again", AGENT, || Ok((restarts() > before).then_some(()))).unwrap();
    cluster.wait_agents().unwrap();
    let record = scene.record("to go on in a second file", |record| {
        record["status"]["state"] == "Capturing"
            && record["status"]["files"].as_array().is_some_and(|files| files.len() == 2)
    });
    let away = killed.elapsed();
    assert_eq!(record["metadata"]["name"], name, "the same run");
    let files = scene.sent();
    assert_eq!(files.len(), 2, "{files:?}");
    assert!(files.iter().all(|numbers| missing(numbers) == 0), "{files:?}");
    let between = u64::from(files[1][0].wrapping_sub(*files[0].last().unwrap()));
    // What was sent while it was away, and a second before it that was not on disk.
    assert!(between <= (away.as_secs() + 2) * RATE, "{between} packets in {away:?}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_new_version_goes_from_node_to_node_and_runs_continue() {
    let cluster = Cluster::with_podtap().unwrap();
    let scene = Scene::new(&cluster, "rolled");
    let name = scene.record("to be there", |_| true)["metadata"]["name"].clone();
    cluster.kubectl(&["-n", "podtap-system", "rollout", "restart", "daemonset/podtap-agent"]).unwrap();
    cluster.wait_agents().unwrap();
    let record = scene.record("to go on in a second file", |record| {
        record["status"]["state"] == "Capturing"
            && record["status"]["files"].as_array().is_some_and(|files| files.len() == 2)
    });
    assert_eq!(record["metadata"]["name"], name, "the same run");
    let files = scene.sent();
    assert!(files.len() == 2 && files.iter().all(|numbers| missing(numbers) == 0), "{files:?}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_flood_of_500_label_changes_ends_as_the_last_ones_say() {
    const PODS: usize = 10;
    let cluster = Cluster::with_podtap().unwrap();
    let namespace = Namespace::make(&cluster, "flood", &[]).unwrap();
    namespace.allow(100).unwrap();
    let pods: Vec<_> = (0..PODS).map(|number| PodManifest::new(&format!("p{number}")).on("node1")).collect();
    let pods: Vec<RunningPod> = namespace.run_all(&pods).unwrap();
    let agent =
        |field: &str| cluster.agent("node1").unwrap()["status"]["containerStatuses"][0][field].clone();
    cluster.wait_agents().unwrap();
    let before = agent("containerID");
    assert!(before.is_string(), "{before}");
    for _ in 0..500 / PODS / 2 {
        for label in [format!("{CAPTURE}=true"), format!("{CAPTURE}-")] {
            namespace.kubectl(&["label", "pods", "--all", &label]).unwrap();
        }
    }
    namespace.kubectl(&["label", "pod", "p0", "p1", &format!("{CAPTURE}=true")]).unwrap();
    let attached = || -> anyhow::Result<Vec<String>> {
        let mut pods: Vec<String> = namespace
            .records()?
            .iter()
            .filter(|record| ATTACHED.iter().any(|state| record["status"]["state"] == *state))
            .map(|record| record["spec"]["pod"].as_str().unwrap_or_default().to_owned())
            .collect();
        pods.sort();
        Ok(pods)
    };
    let limit = Duration::from_secs(180);
    wait("only the last labels to count", limit, || Ok((attached()? == ["p0", "p1"]).then_some(()))).unwrap();
    assert_eq!(pods.len(), PODS);
    assert_eq!(agent("containerID"), before, "the agent was not restarted");
}
