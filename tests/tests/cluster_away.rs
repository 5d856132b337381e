//! Agents without the API server: away for a while or for too long, forgetful, or out of reach.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podtap_tests::cluster::outage::Broken;
use podtap_tests::cluster::pinger::{Pinger, RATE, missing};
use podtap_tests::cluster::podtap::{ATTACHED, CAPTURE};
use podtap_tests::cluster::{Cluster, PodManifest, SOON, wait};
use serde_json::{Value, json};

/// What agents watch and go on watching after an error from where they were.
const RESUMED: [&str; 3] = ["packetcaptures", "capturepolicies", "namespaces"];

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn without_an_api_server_for_a_minute_nothing_is_lost_and_the_record_catches_up() {
    let Some(cluster) = Cluster::own_with_podtap().unwrap() else { return };
    let pinger = Pinger::new(&cluster, "away", "node1").unwrap();
    let before = pinger.record("to be there", |_| true).unwrap()["status"]["packets"].as_u64().unwrap();
    let away = cluster.without_api_server().unwrap();
    std::thread::sleep(Duration::from_secs(60));
    away.back().unwrap();
    // Two directions for a minute, and a tenth less for a ping that is late.
    let least = before + 60 * 2 * RATE * 9 / 10;
    pinger.record("to catch up", |record| record["status"]["packets"].as_u64() >= Some(least)).unwrap();
    let numbers = pinger.end().unwrap().concat();
    assert!(numbers.len() as u64 > 60 * RATE * 9 / 10, "{}", numbers.len());
    assert_eq!(missing(&numbers), 0);
}

/// Requests of three kinds beside a pinger's on node2, which change while that node is cut off.
struct Changing<'a> {
    pinger: Pinger<'a>,
    /// The pinger's record before.
    before: Value,
}

impl<'a> Changing<'a> {
    fn begin(cluster: &'a Cluster, name: &str) -> Result<Self> {
        let pinger = Pinger::new(cluster, name, "node2")?;
        let namespace = &pinger.namespace;
        let pods = ["early", "late", "asked"].map(|name| PodManifest::new(name).on("node2"));
        namespace.run_all(&pods)?;
        namespace.kubectl(&["label", "pod", "early", &format!("{CAPTURE}=true")])?;
        namespace.apply(&json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": "c"},
            "spec": {"podNames": ["asked"]},
        }))?;
        namespace.wait_run("early", None, &ATTACHED)?;
        namespace.wait_run("asked", Some("c"), &ATTACHED)?;
        let before = pinger.record("to be there", |_| true)?;
        Ok(Self { pinger, before })
    }

    fn change(&self) -> Result<()> {
        let namespace = &self.pinger.namespace;
        namespace.kubectl(&["label", "pod", "early", &format!("{CAPTURE}-")])?;
        namespace.kubectl(&["label", "pod", "late", &format!("{CAPTURE}=true")])?;
        let stop = r#"{"spec":{"state":"Stopped"}}"#;
        namespace.kubectl(&["patch", "packetcapture", "c", "--type=merge", "-p", stop])?;
        Ok(())
    }

    /// Waits until what was changed is carried out and told by agent and gateway.
    fn carried_out(&self) -> Result<()> {
        let namespace = &self.pinger.namespace;
        let is = |pod: &'static str, states: &'static [&str], reason: &'static str| {
            namespace.wait_record(
                &format!("{pod} to be {states:?} because of {reason}"),
                SOON,
                move |record| {
                    let status = &record["status"];
                    record["spec"]["pod"] == pod
                        && states.iter().any(|state| status["state"] == *state)
                        && (reason.is_empty() || status["reason"] == reason)
                },
            )
        };
        is("early", &["Stopped"], "RequestRemoved")?;
        is("late", &ATTACHED, "")?;
        is("asked", &["Stopped"], "StopRequested")?;
        let completed = ["wait", "--for=condition=Completed", "packetcapture/c", "--timeout=80s"];
        let words = [&["--namespace", namespace.name()][..], &completed].concat();
        namespace.cluster.kubectl_within(SOON, &words)?;
        Ok(())
    }

    /// The pinger's run must be the one of before, in one file, and the file must have all.
    fn nothing_is_missing(self) -> Result<()> {
        let record = self.pinger.record("to be there", |_| true)?;
        for what in ["/metadata/uid", "/status/startTime"] {
            ensure!(record.pointer(what) == self.before.pointer(what), "{what} is another: {record:#}");
        }
        let files = self.pinger.end()?;
        ensure!(files.len() == 1, "{} files", files.len());
        ensure!(missing(&files[0]) == 0, "{} of {} are missing", missing(&files[0]), files[0].len());
        Ok(())
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn watches_that_have_expired_are_listed_anew_and_captures_go_on() {
    let Some(cluster) = Cluster::own_with_podtap().unwrap() else { return };
    let changing = Changing::begin(&cluster, "expired").unwrap();
    let before = cluster.agent_metrics("node2").unwrap();
    let cut = cluster.cut("node2", Broken::Refusing).unwrap();
    // A new API server over an etcd without a past: where node2's watches were, nobody knows any more.
    let away = cluster.without_api_server().unwrap();
    cluster.forget_the_past().unwrap();
    away.back().unwrap();
    changing.change().unwrap();
    cut.mend().unwrap();
    changing.carried_out().unwrap();
    wait("each watch to have expired and to be listed anew", SOON, || {
        let after = cluster.agent_metrics("node2")?;
        for resource in RESUMED {
            let lists = [("resource", resource)];
            let expired = [("resource", resource), ("reason", "Expired")];
            for (name, labels) in
                [("podtap_api_lists_total", &lists[..]), ("podtap_api_watch_errors_total", &expired)]
            {
                let (before, after) = (before.count(name, labels)?, after.count(name, labels)?);
                ensure!(after > before, "{name} {labels:?}: {before}, then {after}");
            }
        }
        Ok(Some(()))
    })
    .unwrap();
    changing.nothing_is_missing().unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn connections_that_the_network_has_forgotten_keep_no_news_from_an_agent() {
    let Some(cluster) = Cluster::own_with_podtap().unwrap() else { return };
    let changing = Changing::begin(&cluster, "silent").unwrap();
    let cut = cluster.cut("node2", Broken::Silent).unwrap();
    let begun = Instant::now();
    // Nobody is left at the other end who could say that a connection is over.
    cluster.without_api_server().unwrap().back().unwrap();
    changing.change().unwrap();
    // The agent asks each half minute whether the server is there.
    std::thread::sleep(Duration::from_secs(45).saturating_sub(begun.elapsed()));
    cut.mend().unwrap();
    changing.carried_out().unwrap();
    changing.nothing_is_missing().unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn captures_end_when_the_api_server_is_away_for_longer_than_agents_wait() {
    let Some(cluster) = Cluster::own_with_podtap().unwrap() else { return };
    let _impatient = cluster.configure_agents("apiServerPatience: 15s").unwrap();
    let pinger = Pinger::new(&cluster, "patience", "node1").unwrap();
    let record = pinger.record("to be there", |_| true).unwrap();
    let directory = format!(
        "/var/lib/podtap/{}/{}",
        pinger.namespace.name(),
        record["metadata"]["name"].as_str().unwrap()
    );
    let away = cluster.without_api_server().unwrap();
    let stopped = Instant::now();
    let run = wait("the run to end", SOON, || {
        let run: Value =
            serde_json::from_str(&cluster.on("node1", &["cat", &format!("{directory}/run.json")])?)?;
        Ok((run["state"] == "Stopped").then_some(run))
    })
    .unwrap();
    let took = stopped.elapsed();
    assert!((15..45).contains(&took.as_secs()), "{took:?}");
    assert_eq!(run["reason"], "ApiServerUnreachable", "{run:#}");
    away.back().unwrap();
    let told = pinger
        .namespace
        .wait_record("the record to tell why", SOON, |record| record["status"]["state"] == "Stopped")
        .unwrap();
    assert_eq!(told["metadata"]["uid"], record["metadata"]["uid"]);
    assert_eq!(told["status"]["reason"], "ApiServerUnreachable", "{told:#}");
    // Its files are whole, and reach to the end.
    let numbers = pinger.sent(&told).unwrap().concat();
    assert!(numbers.len() as u64 > 15 * RATE * 9 / 10, "{}", numbers.len());
    assert_eq!(missing(&numbers), 0);
    // What was ended stays so, and what is asked now begins.
    let namespace = &pinger.namespace;
    namespace.kubectl(&["label", "pod", "peer", &format!("{CAPTURE}=true")]).unwrap();
    namespace.wait_run("peer", None, &ATTACHED).unwrap();
    assert_eq!(namespace.records().unwrap().len(), 2, "{:#?}", namespace.records());
}
