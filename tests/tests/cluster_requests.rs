//! Requests on a real API server: labels, PacketCaptures and policies, and what becomes of them.

#![expect(clippy::unwrap_used, reason = "what the tests share fails as they do")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jiff::Timestamp;
use podtap_tests::cluster::podtap::{AGENT, ATTACHED, CAPTURE};
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, wait};
use podtap_tests::stalls::Stalls;
use serde_json::{Value, json};

/// A namespace that may capture, with a policy of its own.
struct Team<'a> {
    namespace: Namespace<'a>,
}

impl<'a> Team<'a> {
    /// One with caps that hinder no test.
    fn new(cluster: &'a Cluster, name: &str) -> Self {
        let team = Self::forbidden(cluster, name);
        team.govern(json!({}));
        team
    }

    /// One that no policy selects.
    fn forbidden(cluster: &'a Cluster, name: &str) -> Self {
        Self { namespace: Namespace::make(cluster, name, &[]).unwrap() }
    }

    /// Sets the namespace's policy: these fields besides wide caps.
    fn govern(&self, spec: Value) {
        let mut all = json!({"caps": {"captures": 50, "duration": "1h"}});
        for (key, value) in spec.as_object().unwrap() {
            match value.as_object() {
                Some(inside) => all[key].as_object_mut().unwrap().extend(inside.clone()),
                None => all[key] = value.clone(),
            }
        }
        self.namespace.govern(all).unwrap();
    }

    fn pod(&self, name: &str) -> PodManifest {
        PodManifest::new(name).on("node1")
    }

    fn capture(&self, name: &str, spec: Value) {
        self.namespace
            .apply(&json!({"apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
                "metadata": {"name": name}, "spec": spec}))
            .unwrap();
    }

    fn patch(&self, kind: &str, name: &str, patch: Value) {
        self.namespace.kubectl(&["patch", kind, name, "--type=merge", "-p", &patch.to_string()]).unwrap();
    }

    fn label(&self, pod: &str, value: Option<&str>) {
        let label = value.map_or(format!("{CAPTURE}-"), |value| format!("{CAPTURE}={value}"));
        self.namespace.kubectl(&["label", "--overwrite", "pod", pod, &label]).unwrap();
    }

    /// The records of runs, oldest first.
    fn records(&self) -> Result<Vec<Value>> {
        self.namespace.records()
    }

    /// Waits until a record is as `wanted`.
    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.namespace.wait_record(what, AGENT, wanted).unwrap()
    }

    /// Waits until the run of that pod, asked for by its label or by a capture, is in one of these states.
    fn run(&self, pod: &str, capture: Option<&str>, states: &[&str]) -> Value {
        self.namespace.wait_run(pod, capture, states).unwrap()
    }

    fn ping(&self, from: &str, to: std::net::IpAddr) {
        self.namespace.exec(from, &["ping", "-c", "3", "-i", "0.2", &to.to_string()]).unwrap();
    }

    /// Reasons of the events of an object.
    fn events(&self, kind: &str, name: &str) -> Result<Vec<String>> {
        let selector = format!("involvedObject.kind={kind},involvedObject.name={name}");
        let events = self.namespace.get_json(&["events", "--field-selector", &selector])?;
        let reasons = events["items"].as_array().context("no list")?.iter();
        Ok(reasons.filter_map(|event| event["reason"].as_str()).map(str::to_owned).collect())
    }

    fn wait_event(&self, kind: &str, name: &str, reason: &str) {
        wait(&format!("event {reason} of {kind} {name}"), AGENT, || {
            Ok(self.events(kind, name)?.contains(&reason.to_owned()).then_some(()))
        })
        .unwrap();
    }
}

fn state(record: &Value) -> &str {
    record["status"]["state"].as_str().unwrap_or_default()
}

fn reason(record: &Value) -> &str {
    record["status"]["reason"].as_str().unwrap_or_default()
}

fn message(record: &Value) -> &str {
    record["status"]["message"].as_str().unwrap_or_default()
}

fn name(record: &Value) -> &str {
    record["metadata"]["name"].as_str().unwrap_or_default()
}

fn packets(record: &Value) -> u64 {
    record["status"]["packets"].as_u64().unwrap_or_default()
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_label_captures_its_pod_until_it_is_removed_and_a_new_one_starts_a_new_run() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "label");
    let pods = team.namespace.run_all(&[team.pod("web"), team.pod("peer")]).unwrap();
    team.label("web", Some("true"));
    let begun = team.run("web", None, &ATTACHED);
    assert_eq!(begun["metadata"]["labels"]["podtap.dev/pod"], "web");
    assert_eq!(begun["metadata"]["labels"]["podtap.dev/node"], "node1");
    assert_eq!(begun["spec"]["podUID"], pods[0].uid.as_str());
    assert_eq!(begun["spec"]["request"], "Label");
    team.ping("web", pods[1].address);
    let capturing = team.run("web", None, &["Capturing"]);
    assert_eq!(name(&capturing), name(&begun));
    team.label("web", None);
    let stopped = team.run("web", None, &["Stopped"]);
    assert_eq!(reason(&stopped), "RequestRemoved");
    assert!(packets(&stopped) >= 6, "{stopped:#}");
    assert!(!stopped["status"]["files"].as_array().unwrap().is_empty());
    for reason in ["CaptureStarted", "CaptureStopped"] {
        team.wait_event("Pod", "web", reason);
    }
    team.label("web", Some("true"));
    let again = team.run("web", None, &ATTACHED);
    assert_ne!(name(&again), name(&stopped));
    assert_eq!(team.records().unwrap().len(), 2, "the peer is not captured");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_capture_means_pods_by_selector_and_by_name_and_those_that_come_later() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "selector");
    let web = |name: &str| team.pod(name).label("app", "web");
    team.namespace.run_all(&[web("web-0"), team.pod("other")]).unwrap();
    team.capture("web", json!({"podSelector": {"matchLabels": {"app": "web"}}, "podNames": ["late"]}));
    let first = team.run("web-0", Some("web"), &ATTACHED);
    team.namespace.run_all(&[web("web-1"), team.pod("late")]).unwrap();
    for pod in ["web-1", "late"] {
        team.run(pod, Some("web"), &ATTACHED);
    }
    // Made again under the same name it is another pod, with a run of its own.
    team.namespace.delete_pod("web-0").unwrap();
    let ended = team.wait("the run of the deleted pod to end", |record| {
        name(record) == name(&first) && state(record) == "Stopped"
    });
    assert_eq!(reason(&ended), "RequestRemoved");
    let remade = team.namespace.run(&web("web-0")).unwrap();
    let second = team.run("web-0", Some("web"), &ATTACHED);
    assert_eq!(second["spec"]["podUID"], remade.uid.as_str());
    assert_ne!(name(&second), name(&first));
    // A pod that loses its label leaves; one that is given it joins.
    team.namespace.kubectl(&["label", "pod", "web-1", "app-"]).unwrap();
    team.run("web-1", Some("web"), &["Stopped"]);
    team.namespace.kubectl(&["label", "pod", "other", "app=web"]).unwrap();
    team.run("other", Some("web"), &ATTACHED);
    team.wait_event("PacketCapture", "web", "CaptureStarted");
    // All within one window, which began when the capture was made.
    let windows: Vec<_> =
        team.records().unwrap().iter().map(|record| record["spec"]["settings"].clone()).collect();
    assert!(windows.windows(2).all(|two| two[0] == two[1]), "{windows:#?}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_pod_wanted_by_its_label_and_by_captures_has_a_run_for_each() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "both");
    let pods = team.namespace.run_all(&[team.pod("web").label(CAPTURE, "true"), team.pod("peer")]).unwrap();
    team.capture("icmp", json!({"podNames": ["web"], "filter": "icmp"}));
    team.capture("dns", json!({"podNames": ["web"], "filter": "udp port 53"}));
    for capture in [None, Some("icmp"), Some("dns")] {
        team.run("web", capture, &ATTACHED);
    }
    team.ping("peer", pods[0].address);
    team.run("web", Some("icmp"), &["Capturing"]);
    // Deleted while it captures: it ends, its files and its record stay, and the others go on.
    team.namespace.kubectl(&["delete", "packetcapture", "icmp"]).unwrap();
    let ended = team.run("web", Some("icmp"), &["Stopped"]);
    assert!(packets(&ended) >= 6 && !ended["status"]["files"].as_array().unwrap().is_empty(), "{ended:#}");
    team.run("web", None, &["Capturing"]);
    team.wait("why the third has nothing", |record| {
        record["spec"]["capture"] == "dns" && message(record).starts_with("The filter accepted none of")
    });
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_capture_is_scheduled_changed_paused_and_stopped_for_good() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "changes");
    let pods = team.namespace.run_all(&[team.pod("web"), team.pod("peer")]).unwrap();
    let start = Timestamp::from_second(Timestamp::now().as_second() + 8).unwrap().to_string();
    team.capture("c", json!({"podNames": ["web"], "startTime": start, "filter": "icmp", "duration": "5m"}));
    let scheduled = team.run("web", Some("c"), &["Scheduled"]);
    assert!(message(&scheduled).contains("Begins at"), "{scheduled:#}");
    team.run("web", Some("c"), &["WaitingForTraffic"]);
    team.ping("web", pods[1].address);
    let capturing = team.run("web", Some("c"), &["Capturing"]);
    team.patch("packetcapture", "c", json!({"spec": {"filter": "icmp or arp"}}));
    let changed = team.wait("the changed filter in a new file", |record| {
        record["spec"]["settings"]["filter"] == "icmp or arp"
            && record["status"]["files"].as_array().is_some_and(|files| files.len() == 2)
    });
    assert_eq!((name(&changed), state(&changed)), (name(&capturing), "Capturing"));
    team.patch("packetcapture", "c", json!({"spec": {"filter": "no such thing ("}}));
    let kept = team.wait("the bad filter to be noted", |record| {
        record["status"]["notes"].as_array().is_some_and(|notes| !notes.is_empty())
    });
    assert_eq!(state(&kept), "Capturing");
    team.patch("packetcapture", "c", json!({"spec": {"filter": "icmp", "state": "Paused"}}));
    let paused = team.run("web", Some("c"), &["Paused"]);
    team.ping("web", pods[1].address);
    team.patch("packetcapture", "c", json!({"spec": {"state": "Running"}}));
    let again = team.run("web", Some("c"), &["Capturing"]);
    assert_eq!(packets(&again), packets(&paused), "nothing is captured while it is paused");
    team.patch("packetcapture", "c", json!({"spec": {"state": "Stopped"}}));
    let stopped = team.run("web", Some("c"), &["Stopped"]);
    assert_eq!(reason(&stopped), "StopRequested");
    let again = ["-n", team.namespace.name(), "patch", "packetcapture", "c", "--type=merge", "-p"];
    let running = json!({"spec": {"state": "Running"}}).to_string();
    let refusal = cluster.refusal(&[&again[..], &[running.as_str()]].concat()).unwrap();
    assert!(refusal.contains("a stopped capture does not start again"), "{refusal}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn agents_that_start_anew_continue_what_runs_and_leave_alone_what_is_over() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "again");
    let pods = team.namespace.run_all(&[team.pod("web"), team.pod("done"), team.pod("peer")]).unwrap();
    team.label("web", Some("true"));
    team.namespace.kubectl(&["annotate", "pod", "done", "podtap.dev/max-packets=2"]).unwrap();
    team.label("done", Some("true"));
    for pod in ["web", "done"] {
        // Two packets of its own, such as its neighbours' discovery, and it is done before anybody looks.
        team.run(pod, None, &["WaitingForTraffic", "Capturing", "Completed"]);
        team.ping(pod, pods[2].address);
    }
    let done = team.run("done", None, &["Completed"]);
    assert_eq!((packets(&done), reason(&done)), (2, "PacketLimit"));
    let before = team.run("web", None, &["Capturing"]);
    cluster
        .kubectl_within(
            Duration::from_secs(90),
            &["-n", "podtap-system", "delete", "pod", "-l", "app.kubernetes.io/name=podtap-agent"],
        )
        .unwrap();
    cluster.wait_agents().unwrap();
    let files = |record: &Value| record["status"]["files"].as_array().map_or(0, Vec::len);
    team.wait("a file of the new agent", |record| name(record) == name(&before) && files(record) == 2);
    team.ping("web", pods[2].address);
    team.wait("packets of both", |record| name(record) == name(&before) && packets(record) >= 12);
    let records = team.records().unwrap();
    assert_eq!(records.len(), 2, "{records:#?}");
    let still = records.iter().find(|record| name(record) == name(&done)).unwrap();
    assert_eq!(still["status"], done["status"]);
    // A record that somebody deletes is made again while its run goes on, with its labels.
    team.namespace.kubectl(&["delete", "podcapture", name(&before)]).unwrap();
    let remade = team.run("web", None, &ATTACHED);
    assert_ne!(remade["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(remade["metadata"]["labels"], before["metadata"]["labels"]);
    team.namespace.kubectl(&["delete", "podcapture", name(&done)]).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(team.records().unwrap().len(), 1, "of what is over nothing is made again");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn without_a_policy_nothing_is_captured_and_the_refusal_names_the_way_out() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::forbidden(&cluster, "policy");
    team.namespace.run(&team.pod("web").label(CAPTURE, "true")).unwrap();
    let refused = team.run("web", None, &["Refused"]);
    assert_eq!(reason(&refused), "NotAllowed");
    let way_out = format!("kubectl label namespace {} podtap.dev/allow=true", team.namespace.name());
    assert!(message(&refused).contains(&way_out), "{refused:#}");
    team.wait_event("Pod", "web", "CaptureRefused");
    // Allowed, it begins, in the same record.
    team.govern(json!({}));
    let begun = team.run("web", None, &ATTACHED);
    assert_eq!(name(&begun), name(&refused));
    // Not allowed any more, it ends.
    team.namespace.forbid().unwrap();
    let ended = team.run("web", None, &["Stopped"]);
    assert_eq!(reason(&ended), "NotAllowed");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_suspended_policy_stops_captures_within_two_seconds_and_keeps_files() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "suspended");
    let pods = team.namespace.run_all(&[team.pod("web").label(CAPTURE, "true"), team.pod("peer")]).unwrap();
    team.run("web", None, &ATTACHED);
    team.ping("web", pods[1].address);
    let running = team.run("web", None, &["Capturing"]);
    team.govern(json!({"suspended": true}));
    let (suspended, stalls) = (Instant::now(), Stalls::watch());
    let stopped = team.run("web", None, &["Stopped"]);
    let took = suspended.elapsed().saturating_sub(stalls.so_far());
    assert_eq!((reason(&stopped), name(&stopped)), ("Suspended", name(&running)));
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(!stopped["status"]["files"].as_array().unwrap().is_empty());
    // Nothing begins meanwhile, and what was stopped stays so when it is over.
    team.label("peer", Some("true"));
    let refused = team.run("peer", None, &["Refused"]);
    assert_eq!(reason(&refused), "Suspended");
    team.govern(json!({"suspended": false}));
    team.run("peer", None, &ATTACHED);
    assert_eq!(state(&team.run("web", None, &["Stopped"])), "Stopped");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn caps_clip_what_is_asked_and_a_tightened_one_what_runs() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "caps");
    let pods = team.namespace.run_all(&[team.pod("web"), team.pod("peer")]).unwrap();
    team.govern(json!({"caps": {"duration": "20m", "packets": 1000}}));
    team.capture("c", json!({"podNames": ["web"], "duration": "2h"}));
    let clipped = team.run("web", Some("c"), &ATTACHED);
    assert_eq!(clipped["spec"]["settings"]["duration"], "20m");
    assert_eq!(clipped["spec"]["settings"]["limits"]["packets"], 1000);
    assert_eq!(clipped["status"]["notes"][0], "duration 2h clipped to 20m, the namespace's cap");
    team.ping("web", pods[1].address);
    team.run("web", Some("c"), &["Capturing"]);
    team.govern(json!({"caps": {"duration": "10m", "packets": 500, "snapLength": 96, "headersOnly": true}}));
    let tightened = team.wait("the tightened caps", |record| {
        let settings = &record["spec"]["settings"];
        settings["snapLength"] == 96
            && settings["headersOnly"] == true
            && settings["limits"]["packets"] == 500
    });
    assert_eq!((name(&tightened), state(&tightened)), (name(&clipped), "Capturing"));
    // One that leaves nothing to capture ends it.
    team.govern(json!({"labelRequests": false, "caps": {"packets": 500}}));
    team.label("peer", Some("true"));
    assert_eq!(reason(&team.run("peer", None, &["Refused"])), "LabelsNotAllowed");
    team.run("web", Some("c"), &["Capturing"]);
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn captures_at_once_and_per_hour_are_counted_and_a_restart_forgets_none() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "counts");
    let pods = ["a", "b", "c"].map(|name| team.pod(name));
    team.namespace.run_all(&pods).unwrap();
    team.govern(json!({"caps": {"captures": 1, "capturesPerHour": 2}}));
    team.label("a", Some("true"));
    team.run("a", None, &ATTACHED);
    team.label("b", Some("true"));
    assert_eq!(reason(&team.run("b", None, &["Refused"])), "TooManyCaptures");
    team.label("a", None);
    team.run("a", None, &["Stopped"]);
    // Asked again.
    team.label("b", None);
    team.label("b", Some("true"));
    team.run("b", None, &ATTACHED);
    team.label("b", None);
    cluster
        .kubectl_within(
            Duration::from_secs(90),
            &["-n", "podtap-system", "delete", "pod", "-l", "app.kubernetes.io/name=podtap-agent"],
        )
        .unwrap();
    cluster.wait_agents().unwrap();
    team.label("c", Some("true"));
    assert_eq!(reason(&team.run("c", None, &["Refused"])), "TooManyCapturesPerHour");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_record_goes_when_retention_ends_and_is_not_made_again() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "retention");
    let pods = team.namespace.run_all(&[team.pod("web"), team.pod("peer")]).unwrap();
    team.capture("c", json!({"podNames": ["web"], "limits": {"packets": 2}, "retention": "4s"}));
    team.run("web", Some("c"), &ATTACHED);
    team.ping("web", pods[1].address);
    team.run("web", Some("c"), &["Completed"]);
    wait("the record to go", AGENT, || Ok(team.records()?.is_empty().then_some(()))).unwrap();
    team.patch("packetcapture", "c", json!({"spec": {"limits": {"packets": 3}}}));
    std::thread::sleep(Duration::from_secs(3));
    assert!(team.records().unwrap().is_empty(), "what is finished stays so");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn what_cannot_be_captured_is_refused_with_what_to_do() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "refused");
    let labelled = |name: &str| team.pod(name).label(CAPTURE, "true");
    team.namespace
        .run_all(&[
            labelled("host").host_network(),
            labelled("named").annotation("podtap.dev/interface", "eth0"),
            labelled("typo").annotation("podtap.dev/duration", "1d"),
        ])
        .unwrap();
    assert_eq!(reason(&team.run("host", None, &["Refused"])), "HostNetwork");
    assert_eq!(reason(&team.run("named", None, &["Refused"])), "InvalidInterface");
    let typo = team.run("typo", None, &["Refused"]);
    assert!(message(&typo).contains("a day is 24h"), "{typo:#}");
    // Mended, it begins.
    team.namespace.kubectl(&["annotate", "--overwrite", "pod", "typo", "podtap.dev/duration=1m"]).unwrap();
    assert_eq!(name(&team.run("typo", None, &ATTACHED)), name(&typo));
    // A pod whose work is done is over, too.
    team.namespace
        .apply(
            &labelled("job")
                .command(&["sleep", "5"])
                .with(|pod| {
                    pod["spec"]["restartPolicy"] = json!("Never");
                })
                .manifest(),
        )
        .unwrap();
    team.run("job", None, &["Stopped"]);
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_tighter_policy_reaches_a_capture_whose_request_cannot_be_read_any_more() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "tighter");
    team.namespace.run_all(&[team.pod("web")]).unwrap();
    team.label("web", Some("true"));
    let begun = team.run("web", None, &ATTACHED);
    let notes = |record: &Value| record["status"]["notes"].to_string();
    team.namespace.kubectl(&["annotate", "pod", "web", "podtap.dev/oops=1"]).unwrap();
    team.wait("the annotation to be refused", |record| notes(record).contains("podtap.dev/oops"));
    team.govern(json!({"caps": {"headersOnly": true, "snapLength": 200}}));
    let tight = team.wait("headers only", |record| {
        let settings = &record["spec"]["settings"];
        settings["headersOnly"] == true && settings["snapLength"] == 200
    });
    assert_eq!(name(&tight), name(&begun));
    assert!(ATTACHED.contains(&state(&tight)) && notes(&tight).contains("podtap.dev/oops"), "{tight:#}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_captures_start_never_changes() {
    let cluster = Cluster::with_podtap().unwrap();
    let team = Team::new(&cluster, "start");
    team.capture("now", json!({"podNames": ["nobody"]}));
    team.capture("later", json!({"podNames": ["nobody"], "startTime": "2046-12-01T10:00:00Z"}));
    for (capture, start) in [
        ("now", json!("2046-12-01T10:00:00Z")),
        ("later", json!("2046-12-01T11:00:00Z")),
        ("later", Value::Null),
    ] {
        let patch = json!({"spec": {"startTime": start}}).to_string();
        let patch =
            ["-n", team.namespace.name(), "patch", "packetcapture", capture, "--type=merge", "-p", &patch];
        let refusal = cluster.refusal(&patch).unwrap();
        assert!(refusal.contains("startTime never changes: create another PacketCapture"), "{refusal}");
    }
    // The same moment written otherwise is the same, and everything else may change.
    team.patch(
        "packetcapture",
        "later",
        json!({"spec": {"startTime": "2046-12-01T10:00:00.0Z", "duration": "5m"}}),
    );
}
