use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::{
    super::objects::{WatchedCapture, WatchedPod, WatchedPolicy},
    *,
};
use crate::session::wanted::RequestId;

fn pod(name: &str, labels: Value) -> Value {
    json!({"metadata": {"namespace": "team-a", "name": name, "uid": format!("uid-{name}"), "labels": labels},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}]}})
}

fn capture(name: &str, spec: Value) -> Value {
    json!({"metadata": {"namespace": "team-a", "name": name, "uid": format!("uid-{name}"),
        "creationTimestamp": "2026-12-01T10:00:00Z"}, "spec": spec})
}

impl Store {
    fn pod(&mut self, pod: Value) -> bool {
        let pod: WatchedPod = serde_json::from_value(pod).unwrap();
        self.pods.take(Event::Apply(pod), |pod| Name::of(kube::Resource::meta(pod)), KnownPod::from)
    }

    fn capture(&mut self, capture: Value) -> bool {
        let capture: WatchedCapture = serde_json::from_value(capture).unwrap();
        self.captures.take(Event::Apply(capture))
    }

    fn policy(&mut self, name: &str, mut spec: Value) {
        spec["namespaceSelector"] = json!({});
        let policy: WatchedPolicy =
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap();
        let name = |policy: &WatchedPolicy| Name::of(kube::Resource::meta(policy));
        self.policies.take(Event::Apply(policy), name, KnownPolicy::from);
    }

    fn namespace(&mut self, name: &str) {
        let known = KnownNamespace { uid: format!("uid-{name}"), ..KnownNamespace::default() };
        let name = Name { namespace: String::new(), name: name.into() };
        self.namespaces.take(Event::Apply(()), |()| name.clone(), |()| known.clone());
    }

    fn runs(&mut self) -> Vec<Wanted> {
        let caps = Caps { whose: "namespace", ..Caps::default() };
        self.wanted(&mut Accepted::default(), &Defaults::default(), &caps, None).0.into_values().collect()
    }
}

/// One namespace, one policy.
fn store() -> Store {
    let mut store = Store::default();
    store.namespace("team-a");
    store.policy("default", json!({}));
    store
}

#[test]
fn a_labelled_pod_is_wanted_with_its_place_and_its_namespaces_uid() {
    let mut store = store();
    store.pod(pod("web", json!({"podtap.dev/capture": "true"})));
    store.pod(pod("db", json!({})));
    let runs = store.runs();
    assert_eq!(runs.len(), 1);
    let run = &runs[0];
    assert_eq!((run.pod.name.as_str(), run.pod.namespace_uid.as_str()), ("web", "uid-team-a"));
    assert!(run.settings.is_ok() && run.forbidden.is_none(), "{run:?}");
    let Some(Place::Pod(place)) = &run.pod.place else { panic!("{run:?}") };
    assert_eq!((place.uid.as_str(), place.sandbox_uids.as_slice()), ("uid-web", &["uid-web".to_owned()][..]));
}

#[test]
fn a_static_pod_is_also_known_by_its_hash() {
    let mut store = store();
    let mut mirror = pod("web", json!({"podtap.dev/capture": "true"}));
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": "abc"});
    store.pod(mirror);
    let runs = store.runs();
    let Some(Place::Pod(place)) = &runs[0].pod.place else { panic!("{runs:?}") };
    assert_eq!(place.sandbox_uids, ["uid-web", "abc"]);
}

#[test]
fn what_says_nothing_new_is_no_change() {
    let mut store = store();
    assert!(store.pod(pod("web", json!({}))));
    assert!(!store.pod(pod("web", json!({}))));
    assert!(store.capture(capture("c", json!({"podSelector": {}}))));
    let mut with_status = capture("c", json!({"podSelector": {}}));
    with_status["status"] = json!({"packets": 7});
    with_status["metadata"]["resourceVersion"] = json!("9");
    assert!(!store.capture(with_status));
}

#[test]
fn a_capture_is_accepted_when_it_was_created() {
    let mut store = store();
    store.pod(pod("web", json!({})));
    store.capture(capture("c", json!({"podSelector": {}})));
    let runs = store.runs();
    assert_eq!(runs[0].request.accepted, "2026-12-01T10:00:00Z".parse().unwrap());
    assert_eq!(runs[0].key.request, RequestId::PacketCapture("uid-c".into()));
}

#[test]
fn a_pod_of_a_namespace_not_heard_of_yet_waits() {
    let mut store = Store::default();
    store.policy("default", json!({}));
    store.pod(pod("web", json!({"podtap.dev/capture": "true"})));
    assert!(store.runs().is_empty());
    store.namespace("team-a");
    assert_eq!(store.runs().len(), 1);
}

#[test]
fn pods_that_cannot_be_captured_are_refused_with_the_reason() {
    let mut store = store();
    let label = json!({"podtap.dev/capture": "true"});
    let mut host = pod("host", label.clone());
    host["spec"] = json!({"hostNetwork": true});
    store.pod(host);
    for (name, annotation) in [("interface", "podtap.dev/interface"), ("netns", "podtap.dev/netns")] {
        let mut named = pod(name, label.clone());
        named["metadata"]["annotations"] = json!({annotation: "veth-of-another"});
        store.pod(named);
    }
    let mut done = pod("done", label);
    done["status"]["phase"] = json!("Failed");
    store.pod(done);
    let refused: BTreeMap<_, _> =
        store.runs().into_iter().map(|run| (run.pod.name, run.settings.unwrap_err().reason)).collect();
    let expected =
        [("host", "HostNetwork"), ("interface", "InvalidInterface"), ("netns", "InvalidInterface")];
    assert_eq!(refused, expected.map(|(name, reason)| (name.to_owned(), reason.to_owned())).into());
}

#[test]
fn a_pod_being_deleted_is_captured_to_its_end_and_claims_no_address() {
    let mut store = store();
    let mut leaving = pod("web", json!({"podtap.dev/capture": "true"}));
    assert_eq!(
        {
            store.pod(leaving.clone());
            store.claims().count()
        },
        1
    );
    leaving["metadata"]["deletionTimestamp"] = json!("2026-12-01T10:00:00Z");
    store.pod(leaving);
    let runs = store.runs();
    assert!(runs.len() == 1 && runs[0].settings.is_ok() && runs[0].pod.addresses.is_empty(), "{runs:?}");
    assert_eq!(store.claims().count(), 0);
}

#[test]
fn without_a_policy_and_while_the_server_is_away_everything_is_forbidden() {
    let mut store = Store::default();
    store.namespace("team-a");
    store.pod(pod("web", json!({"podtap.dev/capture": "true"})));
    let refusal = store.runs()[0].forbidden.clone().unwrap();
    assert_eq!(refusal.reason, reasons::NOT_ALLOWED);
    assert!(refusal.message.contains("kubectl label namespace team-a podtap.dev/allow=true"), "{refusal}");
    store.policy("default", json!({}));
    assert_eq!(store.runs()[0].forbidden, None);
    let away = Refusal::new(reasons::API_SERVER_UNREACHABLE, "away");
    let (wanted, _) =
        store.wanted(&mut Accepted::default(), &Defaults::default(), &Caps::default(), Some(&away));
    assert_eq!(wanted.values().next().unwrap().forbidden.as_ref(), Some(&away));
}

#[test]
fn caps_of_policies_clip_and_the_record_says_whose_they_are() {
    let mut store = store();
    store.policy("tight", json!({"caps": {"duration": "1m", "capturesPerHour": 5, "captures": 2}}));
    store.pod(pod("web", json!({})));
    store.capture(capture("c", json!({"podSelector": {}, "duration": "5m"})));
    let runs = store.runs();
    assert_eq!(runs[0].notes, ["duration 5m clipped to 1m, the namespace's cap"]);
    assert_eq!((runs[0].allowance.at_once, runs[0].allowance.per_hour), (2, Some(5)));
}

#[test]
fn a_destination_that_is_not_allowed_forbids() {
    let mut store = store();
    store.pod(pod("web", json!({})));
    store.capture(capture("c", json!({"podSelector": {}, "output": {"objectStore": "archive"}})));
    assert_eq!(store.runs()[0].forbidden.as_ref().unwrap().reason, reasons::UNKNOWN_OUTPUT);
}

#[test]
fn a_bad_capture_refuses_its_pods_and_one_that_means_none_is_told_once() {
    let mut store = store();
    store.pod(pod("web", json!({})));
    store.capture(capture("bad", json!({"podSelector": {}, "duration": "ten"})));
    store.capture(capture("typo", json!({"podSelector": {}, "durration": "1m"})));
    store.capture(capture("empty", json!({})));
    let mut told = || {
        let (wanted, pointless) =
            store.wanted(&mut Accepted::default(), &Defaults::default(), &Caps::default(), None);
        let reasons: BTreeMap<_, _> = wanted
            .into_values()
            .map(|run| (run.request.name.unwrap(), run.settings.unwrap_err().reason))
            .collect();
        (reasons, pointless)
    };
    let (refused, pointless) = told();
    let expected = [("bad", "InvalidValue"), ("typo", "UnknownField")];
    assert_eq!(refused, expected.map(|(name, reason)| (name.to_owned(), reason.to_owned())).into());
    assert_eq!(pointless.len(), 1);
    assert_eq!(pointless[0].name.name, "empty");
    assert!(pointless[0].refusal.message.contains("spec.podSelector"));
    assert!(told().1.is_empty());
}

#[test]
fn captures_elsewhere_are_not_even_read() {
    let mut store = store();
    store.namespace("team-b");
    store.pod(pod("web", json!({})));
    let mut elsewhere = capture("c", json!({"podSelector": {}}));
    elsewhere["metadata"]["namespace"] = json!("team-b");
    store.capture(elsewhere);
    assert!(store.runs().is_empty());
    assert!(store.read.is_empty());
}
