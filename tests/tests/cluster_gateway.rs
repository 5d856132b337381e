//! The gateway on a real API server. Runs are records that the test writes as agents of nodes that it makes up.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use podtap_tests::cluster::{Cluster, Namespace, SOON, wait};
use podtap_tests::fake::{Bulk, Call, FakeRun};
use podtap_tests::gateway::{Gateway, Gateways};
use podtap_tests::stalls::Stalls;
use serde_json::{Value, json};

/// Objects may not be larger than this, whatever takes part in them.
const LARGEST: usize = 16 << 10;
const NODES: &str = "/api/v1/nodes";

/// One test at a time has the lease.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A policy that allows namespaces with the label `gateway-test: allowed`, for the time of a test.
struct Policy<'a>(&'a Cluster);

impl<'a> Policy<'a> {
    const NAME: &'static str = "gateway-test";
    const LABEL: (&'static str, &'static str) = ("gateway-test", "allowed");

    fn apply(cluster: &'a Cluster) -> Result<Self> {
        let labels = json!({Self::LABEL.0: Self::LABEL.1});
        let policy = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "CapturePolicy", "metadata": {"name": Self::NAME},
            "spec": {"namespaceSelector": {"matchLabels": labels}},
        });
        cluster.apply(&policy)?;
        Ok(Self(cluster))
    }

    fn namespace(&self, name: &str) -> Result<Namespace<'a>> {
        Namespace::make(self.0, name, &[Self::LABEL])
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        let _ = self.0.kubectl(&["delete", "capturepolicy", Self::NAME, "--ignore-not-found"]);
    }
}

/// Makes a PacketCapture and tells its UID.
fn capture(namespace: &Namespace<'_>, name: &str, spec: Value) -> Result<String> {
    namespace.apply(&json!({
        "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture", "metadata": {"name": name}, "spec": spec,
    }))?;
    let uid = namespace.get_json(&["packetcapture", name])?["metadata"]["uid"]
        .as_str()
        .context("no UID")?
        .to_owned();
    Ok(uid)
}

fn run(namespace: &Namespace<'_>, capture: &str, uid: &str, number: usize) -> FakeRun {
    FakeRun {
        namespace: namespace.name().to_owned(),
        capture: capture.to_owned(),
        request_uid: uid.to_owned(),
        pod: format!("pod-{number}"),
        node: format!("podtap-fake-{number}"),
        retention: "24h".to_owned(),
    }
}

fn status(namespace: &Namespace<'_>, capture: &str) -> Result<Value> {
    Ok(namespace.get_json(&["packetcapture", capture])?["status"].clone())
}

/// "status/reason" of a condition.
fn condition(status: &Value, kind: &str) -> String {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default();
    format!("{}/{}", found["status"].as_str().unwrap_or("-"), found["reason"].as_str().unwrap_or("-"))
}

/// Waits until the status is as `good` wants it.
fn wait_status(
    namespace: &Namespace<'_>,
    capture: &str,
    gateway: &Gateway,
    good: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let mut last = Value::Null;
    let found = wait("the status", SOON, || {
        last = status(namespace, capture)?;
        Ok(good(&last).then(|| last.clone()))
    });
    found.with_context(|| format!("the last one: {last:#}\nthe gateway's log:\n{}", gateway.log()))
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_status_of_a_capture_is_the_sum_of_its_runs_and_can_be_waited_for() {
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let namespace = policy.namespace("sum").unwrap();
    let gateway = gateways.start("one", &[]).unwrap();
    let spec = json!({"podSelector": {"matchLabels": {"app": "nobody"}}, "duration": "20s"});
    let uid = capture(&namespace, "web", spec).unwrap();
    let begun = wait_status(&namespace, "web", &gateway, |status| {
        condition(status, "Accepted") == "True/Accepted" && condition(status, "Capturing") == "False/NoPods"
    })
    .unwrap();
    assert_eq!((&begun["observedGeneration"], &begun["pods"]), (&json!(1), &json!(0)));

    let bulk = Bulk::new(&cluster).unwrap();
    let runs: Vec<FakeRun> = (0..3).map(|number| run(&namespace, "web", &uid, number)).collect();
    bulk.run([Call::create(NODES, node("podtap-fake-0"))], 1).unwrap();
    bulk.run(runs.iter().map(FakeRun::create), 3).unwrap();
    bulk.run(runs.iter().enumerate().map(|(number, run)| run.status("Capturing", 100 << number)), 3).unwrap();
    let running = wait_status(&namespace, "web", &gateway, |status| status["capturing"] == 3).unwrap();
    assert_eq!(condition(&running, "Capturing"), "True/Capturing");
    assert_eq!(condition(&running, "Completed"), "False/WindowOpen");
    bulk.run(
        [runs[0].status("Completed", 1000), runs[1].status("Failed", 200), runs[2].status("Stopped", 400)],
        3,
    )
    .unwrap();

    let wait =
        ["wait", "--for=condition=Completed", "--timeout=60s", "packetcapture/web", "-n", namespace.name()];
    cluster.kubectl_within(SOON, &wait).unwrap();
    let over = status(&namespace, "web").unwrap();
    let numbers = ["pods", "capturing", "finished", "failed", "packets", "bytes", "dropped"]
        .map(|field| over[field].as_u64().unwrap());
    assert_eq!(numbers, [3, 0, 2, 1, 1600, 1_600_000, 3]);
    assert_eq!(condition(&over, "Capturing"), "False/Ended");

    // Nothing moves any more, so nothing is written any more.
    std::thread::sleep(Duration::from_secs(3));
    let writes = gateway.writes().unwrap();
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(gateway.writes().unwrap(), writes);
    bulk.run([Call::delete(NODES, "podtap-fake-0")], 1).unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn what_is_not_captured_is_told_with_its_reason() {
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let good = policy.namespace("told").unwrap();
    let other = Namespace::make(&cluster, "untold", &[]).unwrap();
    let gateway = gateways.start("one", &[]).unwrap();

    capture(&good, "odd", json!({"podSelector": {}, "output": {"objectStore": "nowhere"}})).unwrap();
    let odd = wait_status(&good, "odd", &gateway, |status| condition(status, "Accepted") != "-/-").unwrap();
    assert_eq!(condition(&odd, "Accepted"), "False/UnknownOutput");

    // A namespace may be allowed later, and suspended after that.
    let long = json!({"podNames": ["nobody"], "duration": "10m"});
    capture(&other, "web", long).unwrap();
    let becomes = |what: &str| {
        wait_status(&other, "web", &gateway, |status| condition(status, "Accepted") == what)
            .unwrap_or_else(|error| panic!("{what}: {error:#}"))
    };
    becomes("False/NotAllowed");
    cluster.kubectl(&["label", "namespace", other.name(), "gateway-test=allowed"]).unwrap();
    becomes("True/Accepted");
    let suspend = |yes: bool| {
        let patch = json!({"spec": {"suspended": yes}}).to_string();
        cluster.kubectl(&["patch", "capturepolicy", Policy::NAME, "--type=merge", "-p", &patch]).unwrap();
    };
    suspend(true);
    let suspended = becomes("False/Suspended");
    suspend(false);
    let accepted = becomes("True/Accepted");
    let since = |status: &Value| status["conditions"][0]["lastTransitionTime"].as_str().unwrap().to_owned();
    assert!(since(&accepted) >= since(&suspended));

    // Stopped: it completes without any run.
    cluster
        .kubectl(&[
            "patch",
            "packetcapture",
            "web",
            "-n",
            other.name(),
            "--type=merge",
            "-p",
            r#"{"spec":{"state":"Stopped"}}"#,
        ])
        .unwrap();
    let stopped =
        wait_status(&other, "web", &gateway, |status| condition(status, "Completed") == "True/Stopped")
            .unwrap();
    assert_eq!(stopped["observedGeneration"], 2);
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn one_of_two_leads_and_the_other_takes_over_when_it_is_killed() {
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let namespace = policy.namespace("lease").unwrap();
    let mut both = [gateways.start("one", &[]).unwrap(), gateways.start("two", &[]).unwrap()];
    let leader = |both: &[Gateway; 2]| match both.each_ref().map(|gateway| gateway.leads().unwrap()) {
        [true, false] => Some(0),
        [false, true] => Some(1),
        [true, true] => panic!("both lead"),
        [false, false] => None,
    };
    let first = wait("a leader", SOON, || Ok(leader(&both))).unwrap();
    capture(&namespace, "before", json!({"podNames": ["nobody"]})).unwrap();
    wait_status(&namespace, "before", &both[first], |status| {
        condition(status, "Accepted") == "True/Accepted"
    })
    .unwrap();
    assert!(both[first].writes().unwrap() >= 1);
    assert_eq!(both[1 - first].writes().unwrap(), 0, "who does not lead does not write");

    both[first].process.kill();
    let killed = Instant::now();
    capture(&namespace, "after", json!({"podNames": ["nobody"]})).unwrap();
    let other = &both[1 - first];
    wait("the other to lead", SOON, || Ok(other.leads()?.then_some(()))).unwrap();
    // The lease holds for 15 s after its last renewal: nobody may be faster, and the other looks every 2 s.
    let took = killed.elapsed();
    assert!((Duration::from_secs(11)..Duration::from_secs(25)).contains(&took), "{took:?}");
    wait_status(&namespace, "after", other, |status| condition(status, "Accepted") == "True/Accepted")
        .unwrap();

    // One that is told to stop gives the lease back, so that the next one need not wait.
    let third = gateways.start("three", &[]).unwrap();
    assert!(!third.leads().unwrap());
    both[1 - first].process.signal(libc::SIGTERM).unwrap();
    let (stopped, stalls) = (Instant::now(), Stalls::watch());
    assert!(both[1 - first].process.wait(Duration::from_secs(10)).unwrap().success());
    wait("the third to lead", SOON, || Ok(third.leads()?.then_some(()))).unwrap();
    let took = stopped.elapsed().saturating_sub(stalls.so_far());
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_leader_that_hears_nothing_from_the_api_server_stops_writing_and_goes_on_when_it_is_back() {
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    if !cluster.is_own() {
        return;
    }
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let namespace = policy.namespace("silence").unwrap();
    let gateway = gateways.start("one", &[]).unwrap();
    wait("a leader", SOON, || Ok(gateway.leads()?.then_some(()))).unwrap();
    cluster.pause("api").unwrap();
    let silent = Instant::now();
    let gave_up = wait("the leader to give up", SOON, || Ok((!gateway.leads()?).then(|| silent.elapsed())));
    cluster.resume("api").unwrap();
    // 10 s after the last renewal, which was at most 2 s and an answer before; nobody may lead before 15 s.
    let gave_up = gave_up.unwrap();
    assert!((Duration::from_secs(4)..Duration::from_secs(13)).contains(&gave_up), "{gave_up:?}");
    wait("a leader again", SOON, || Ok(gateway.leads()?.then_some(()))).unwrap();
    capture(&namespace, "after", json!({"podNames": ["nobody"]})).unwrap();
    wait_status(&namespace, "after", &gateway, |status| condition(status, "Accepted") == "True/Accepted")
        .unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn connections_that_the_network_has_forgotten_keep_no_news_from_a_gateway() {
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let namespace = policy.namespace("forgotten").unwrap();
    let (gateway, relay) = gateways.start_behind_relay("one").unwrap();
    let uid = capture(&namespace, "before", json!({"podNames": ["nobody"]})).unwrap();
    wait_status(&namespace, "before", &gateway, |status| condition(status, "Capturing") == "False/NoPods")
        .unwrap();
    relay.forget();
    // A run, a capture and a policy that only watches tell of.
    let bulk = Bulk::new(&cluster).unwrap();
    let run = run(&namespace, "before", &uid, 200);
    bulk.run([run.create()], 1).unwrap();
    bulk.run([run.status("Capturing", 70)], 1).unwrap();
    capture(&namespace, "during", json!({"podNames": ["nobody"]})).unwrap();
    let other = Namespace::make(&cluster, "unforgotten", &[]).unwrap();
    capture(&other, "refused", json!({"podNames": ["nobody"]})).unwrap();
    wait("the gateway to notice", SOON, || Ok((!gateway.leads()?).then_some(()))).unwrap();
    relay.mend();
    let mended = Instant::now();
    wait_status(&namespace, "before", &gateway, |status| status["capturing"] == 1 && status["packets"] == 70)
        .unwrap();
    wait_status(&namespace, "during", &gateway, |status| condition(status, "Accepted") == "True/Accepted")
        .unwrap();
    wait_status(&other, "refused", &gateway, |status| condition(status, "Accepted").starts_with("False/"))
        .unwrap();
    // Each of them ends by itself only after almost five minutes.
    assert!(mended.elapsed() < Duration::from_secs(60), "{:?}", mended.elapsed());
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn runs_of_a_node_that_is_gone_fail_and_their_records_go_with_retention() {
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let namespace = policy.namespace("gone").unwrap();
    let gateway = gateways.start("one", &["--node-gone-after", "3s"]).unwrap();
    let uid = capture(&namespace, "web", json!({"podNames": ["nobody"], "duration": "5s"})).unwrap();
    let bulk = Bulk::new(&cluster).unwrap();
    let (lost, kept) = (run(&namespace, "web", &uid, 100), run(&namespace, "web", &uid, 101));
    let lost = FakeRun { retention: "15s".to_owned(), ..lost };
    let nodes = [&lost, &kept].map(|run| Call::create(NODES, node(&run.node)));
    bulk.run(nodes, 1).unwrap();
    bulk.run([lost.create(), kept.create()], 1).unwrap();
    bulk.run([lost.status("Capturing", 70), kept.status("Capturing", 30)], 1).unwrap();
    wait_status(&namespace, "web", &gateway, |status| status["capturing"] == 2).unwrap();
    // Nodes that are there are let alone, however long nothing is heard of them.
    std::thread::sleep(Duration::from_secs(6));
    let state = |run: &FakeRun| -> Result<Value> {
        Ok(namespace.get_json(&["podcapture", &run.record()])?["status"].clone())
    };
    assert_eq!(state(&lost).unwrap()["state"], "Capturing");
    assert_eq!(condition(&status(&namespace, "web").unwrap(), "Completed"), "False/RunsUnfinished");

    bulk.run([Call::delete(NODES, &lost.node)], 1).unwrap();
    let failed =
        wait(
            "the run to fail",
            SOON,
            || Ok(Some(state(&lost)?).filter(|status| status["state"] == "Failed")),
        )
        .unwrap();
    assert_eq!((&failed["reason"], &failed["packets"]), (&json!("NodeGone"), &json!(70)));
    assert!(failed["message"].as_str().unwrap().contains(&lost.node) && failed["endTime"].is_string());
    bulk.run([kept.status("Completed", 31)], 1).unwrap();
    let over = wait_status(&namespace, "web", &gateway, |status| {
        condition(status, "Completed") == "True/WindowOver"
    })
    .unwrap();
    assert_eq!((&over["finished"], &over["failed"], &over["packets"]), (&json!(1), &json!(1), &json!(101)));

    wait("the record to go", SOON, || {
        let left = namespace.kubectl(&["get", "podcaptures", "-o", "name"])?;
        Ok((!left.contains(&lost.record())).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}", gateway.log()));
    // What it counted stays counted, and the other's record stays.
    assert_eq!(state(&kept).unwrap()["state"], "Completed");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(status(&namespace, "web").unwrap()["packets"], 101);
    bulk.run([Call::delete(NODES, &kept.node)], 1).unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn five_hundred_nodes_make_no_object_grow_and_few_writes() {
    const MANY: usize = 500;
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let namespace = policy.namespace("many").unwrap();
    let gateway = gateways.start("one", &["--node-gone-after", "1h"]).unwrap();
    let uid = capture(&namespace, "all", json!({"podNames": ["nobody"], "duration": "10m"})).unwrap();
    let bulk = Bulk::new(&cluster).unwrap();
    let runs: Vec<FakeRun> = (0..MANY).map(|number| run(&namespace, "all", &uid, number)).collect();
    let begun = Instant::now();
    bulk.run(runs.iter().map(FakeRun::create), 16).unwrap();
    bulk.run(runs.iter().map(|run| run.status("Capturing", 10)), 16).unwrap();
    let sum = wait_status(&namespace, "all", &gateway, |status| {
        status["capturing"] == MANY && status["packets"] == 10 * MANY
    })
    .unwrap();
    assert_eq!(sum["pods"], MANY);
    let writes = gateway.writes().unwrap();
    // One each two seconds, the first at once.
    let most = begun.elapsed().as_secs() / 2 + 2;
    assert!(writes <= most, "{writes} writes in {:?}", begun.elapsed());
    let path = format!("/apis/podtap.dev/v1alpha1/namespaces/{}", namespace.name());
    for objects in ["packetcaptures", "podcaptures"] {
        let list = bulk.get(&format!("{path}/{objects}")).unwrap();
        let largest =
            list["items"].as_array().unwrap().iter().map(|object| object.to_string().len()).max().unwrap();
        assert!(largest <= LARGEST, "{objects}: {largest}");
    }
}

/// Agents' configuration as it was, when dropped.
struct AgentConfig<'a>(&'a Cluster, Value);

impl<'a> AgentConfig<'a> {
    const OBJECT: [&'static str; 4] = ["-n", "podtap-system", "configmap", "podtap-agent"];

    fn with(cluster: &'a Cluster, more: &str) -> Result<Self> {
        let before = cluster.get_json(&Self::OBJECT)?["data"]["agent.yaml"].clone();
        let text = before.as_str().context("no configuration")?;
        Self::set(cluster, &json!(format!("{text}\n{more}")))?;
        Ok(Self(cluster, before))
    }

    fn set(cluster: &Cluster, text: &Value) -> Result<()> {
        let patch = json!({"data": {"agent.yaml": text}}).to_string();
        cluster.kubectl(&[&["patch"], &Self::OBJECT[..], &["--type=merge", "-p", &patch]].concat()).map(drop)
    }
}

impl Drop for AgentConfig<'_> {
    fn drop(&mut self) {
        if let Err(error) = Self::set(self.0, &self.1) {
            eprintln!("the agents' configuration may be left changed: {error:#}");
        }
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_window_is_as_long_as_the_agents_configuration_makes_it() {
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let namespace = policy.namespace("window").unwrap();
    let config = AgentConfig::with(&cluster, "defaults: {duration: 5s}\n").unwrap();
    let gateway = gateways.start("one", &[]).unwrap();
    capture(&namespace, "short", json!({"podNames": ["nobody"]})).unwrap();
    wait_status(&namespace, "short", &gateway, |status| condition(status, "Completed") == "True/WindowOver")
        .unwrap();
    capture(&namespace, "long", json!({"podNames": ["nobody"]})).unwrap();
    drop(config);
    // It is longer than it was, now that agents would make it so.
    wait_status(&namespace, "long", &gateway, |status| condition(status, "Completed") == "False/WindowOpen")
        .unwrap();
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(condition(&status(&namespace, "long").unwrap(), "Completed"), "False/WindowOpen");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn of_a_namespace_that_asks_for_too_much_the_rest_is_refused_with_what_to_do() {
    let (cluster, _alone) = (Cluster::get().unwrap(), alone());
    let gateways = Gateways::instead_of_deployed(&cluster).unwrap();
    let policy = Policy::apply(&cluster).unwrap();
    let namespace = policy.namespace("much").unwrap();
    let gateway = gateways.start("one", &[]).unwrap();
    // As large as the API server takes them.
    let expression = json!({"key": "k".repeat(317), "operator": "In", "values": vec!["v".repeat(63); 32]});
    let names: Vec<String> = (0..128).map(|number| format!("{number:a>253}")).collect();
    let spec = json!({"podSelector": {"matchExpressions": vec![expression; 16]}, "podNames": names});
    let size = spec.to_string().len();
    let most = (1 << 20) / size;
    for number in 0..most + 2 {
        capture(&namespace, &format!("c{number:02}"), spec.clone()).unwrap();
    }
    let accepted = |name: &str| {
        let told = |status: &Value| condition(status, "Accepted") != "-/-";
        wait_status(&namespace, name, &gateway, told).unwrap()
    };
    let statuses: Vec<Value> = (0..most + 2).map(|number| accepted(&format!("c{number:02}"))).collect();
    let refused: Vec<&Value> =
        statuses.iter().filter(|status| condition(status, "Accepted") == "False/TooLarge").collect();
    assert_eq!(refused.len(), 2, "{most} of {size} bytes fit: {statuses:#?}");
    let message = refused[0]["conditions"][0]["message"].as_str().unwrap();
    assert!(
        message.contains("delete those that are over") && message.contains(namespace.name()),
        "{message}"
    );
}
