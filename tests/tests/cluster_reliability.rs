//! What a cluster does to agents: a killed agent, a new version, a flood of requests.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podtap_tests::cluster::pinger::{Pinger, RATE, missing};
use podtap_tests::cluster::podtap::{AGENT, ATTACHED, CAPTURE};
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, RunningPod, wait};
use serde_json::Value;

/// Waits until the run of that name is captured into its second file.
fn goes_on_in_a_second_file(pinger: &Pinger<'_>, name: &Value) -> Result<()> {
    let record = pinger.record("to go on in a second file", |record| {
        record["status"]["state"] == "Capturing"
            && record["status"]["files"].as_array().is_some_and(|files| files.len() == 2)
    })?;
    ensure!(record["metadata"]["name"] == *name, "another run than {name}: {record:#}");
    Ok(())
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_killed_agent_is_back_in_seconds_and_the_files_of_before_are_kept() {
    let Some(cluster) = Cluster::own_with_podtap().unwrap() else { return };
    let pinger = Pinger::new(&cluster, "killed", "node1").unwrap();
    let name = pinger.record("to be there", |_| true).unwrap()["metadata"]["name"].clone();
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
    goes_on_in_a_second_file(&pinger, &name).unwrap();
    let away = killed.elapsed();
    let files = pinger.end().unwrap();
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
    let pinger = Pinger::new(&cluster, "rolled", "node1").unwrap();
    let name = pinger.record("to be there", |_| true).unwrap()["metadata"]["name"].clone();
    cluster.kubectl(&["-n", "podtap-system", "rollout", "restart", "daemonset/podtap-agent"]).unwrap();
    cluster.wait_agents().unwrap();
    goes_on_in_a_second_file(&pinger, &name).unwrap();
    let files = pinger.end().unwrap();
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
    let attached = || -> Result<Vec<String>> {
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
