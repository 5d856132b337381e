use std::collections::BTreeMap;

use super::*;

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pod(name: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> PodObject {
    PodObject {
        pod: PodRef {
            namespace: "team-a".into(),
            namespace_uid: String::new(),
            name: name.into(),
            uid: format!("uid-{name}"),
            labels: texts(labels),
            addresses: Vec::new(),
            place: Some(Place::Interface(format!("veth-{name}"))),
        },
        annotations: texts(annotations),
        problem: None,
        notes: Vec::new(),
    }
}

fn capture(name: &str, spec: &str) -> CaptureObject {
    let spec: PacketCaptureSpec = serde_json::from_str(spec).unwrap();
    CaptureObject {
        namespace: "team-a".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        accepted: None,
        selection: spec.selection().unwrap(),
        spec: Ok(spec),
        notes: Vec::new(),
    }
}

fn rules() -> NamespaceRules {
    NamespaceRules { defaults: Defaults::default(), caps: Caps::default(), label_requests: true }
}

fn join(pods: &[PodObject], captures: &[CaptureObject]) -> Vec<Wanted> {
    desired(pods, captures, &mut Accepted::default(), Timestamp::UNIX_EPOCH, &rules()).into_values().collect()
}

/// Rules that forbid everything.
struct Nothing;

impl Rules for Nothing {
    fn of(&self, namespace: &str) -> Result<NamespaceRules, Refusal> {
        Err(Refusal::new("NotAllowed", format!("not in {namespace}")))
    }
}

#[test]
fn a_label_captures_its_pod_only() {
    let pods = [
        pod("web", &[(keys::CAPTURE, "true")], &[(keys::FILTER, "icmp"), (keys::MAX_PACKETS, "100")]),
        pod("db", &[], &[]),
        pod("off", &[(keys::CAPTURE, "false")], &[]),
    ];
    let wanted = join(&pods, &[]);
    assert_eq!(wanted.len(), 1);
    let settings = wanted[0].settings.as_ref().unwrap();
    assert_eq!((wanted[0].pod.name.as_str(), settings.filter.as_str()), ("web", "icmp"));
    assert_eq!(settings.limits.packets, Some(100));
    assert_eq!(wanted[0].request.kind, RequestKind::Label);
    assert_eq!((wanted[0].request.uid.as_str(), &wanted[0].request.name), ("uid-web", &None));
}

#[test]
fn a_label_that_says_neither_yes_nor_no_is_refused() {
    let wanted = join(&[pod("web", &[(keys::CAPTURE, "yes")], &[])], &[]);
    let refusal = wanted[0].settings.as_ref().unwrap_err();
    assert!(refusal.message.contains("\"yes\" is not \"true\""), "{refusal}");
}

#[test]
fn selector_names_and_label_together_give_one_run_each() {
    let pods =
        [pod("web", &[("app", "web"), (keys::CAPTURE, "true")], &[]), pod("db", &[("app", "db")], &[])];
    let captures = [
        capture("all", r#"{"podSelector":{}}"#),
        capture("web", r#"{"podSelector":{"matchLabels":{"app":"web"}},"podNames":["web"]}"#),
        capture("named", r#"{"podNames":["db","later"]}"#),
    ];
    let mut runs: Vec<_> = join(&pods, &captures)
        .into_iter()
        .map(|wanted| (wanted.pod.name, wanted.request.name.unwrap_or("label".into())))
        .collect();
    runs.sort();
    let expected = [("db", "all"), ("db", "named"), ("web", "all"), ("web", "label"), ("web", "web")];
    assert_eq!(runs, expected.map(|(pod, request)| (pod.to_owned(), request.to_owned())));
}

#[test]
fn a_capture_reaches_no_other_namespace() {
    let mut other = pod("web", &[], &[]);
    other.pod.namespace = "team-b".into();
    assert!(join(&[other], &[capture("all", r#"{"podSelector":{}}"#)]).is_empty());
}

#[test]
fn the_pods_of_a_capture_share_its_time_and_a_label_has_its_own() {
    let rules = rules();
    let mut accepted = Accepted::default();
    let second = |seconds| Timestamp::from_second(seconds).unwrap();
    let captures = [capture("all", r#"{"podSelector":{}}"#)];
    let first = [pod("a", &[(keys::CAPTURE, "true")], &[])];
    desired(&first, &captures, &mut accepted, second(1), &rules);
    let both = [first[0].clone(), pod("b", &[(keys::CAPTURE, "true")], &[])];
    let wanted = desired(&both, &captures, &mut accepted, second(2), &rules);
    let mut times: Vec<_> = wanted
        .values()
        .map(|wanted| (wanted.pod.name.as_str(), wanted.request.name.is_some(), wanted.request.accepted))
        .collect();
    times.sort();
    assert_eq!(
        times,
        [("a", false, second(1)), ("a", true, second(1)), ("b", false, second(2)), ("b", true, second(1))]
    );
    // A label that was taken off and put on again is a new request.
    desired(&[pod("a", &[], &[])], &captures, &mut accepted, second(3), &rules);
    let wanted = desired(&first, &captures, &mut accepted, second(4), &rules);
    let label = wanted.values().find(|wanted| wanted.request.kind == RequestKind::Label).unwrap();
    assert_eq!(label.request.accepted, second(4));
}

#[test]
fn what_is_forbidden_is_refused_and_accepted_when_it_is_allowed() {
    let second = |seconds| Timestamp::from_second(seconds).unwrap();
    let pods = [pod("a", &[(keys::CAPTURE, "true")], &[])];
    let mut accepted = Accepted::default();
    let mut told = |now, rules: &dyn Rules| {
        let wanted = desired(&pods, [], &mut accepted, now, rules).into_values().next().unwrap();
        (wanted.forbidden.map(|refusal| refusal.message), wanted.request.accepted, wanted.allowance)
    };
    let nothing = Allowance { at_once: 0, per_hour: None };
    let four = Allowance { at_once: 4, per_hour: None };
    assert_eq!(told(second(1), &Nothing), (Some("not in team-a".into()), second(1), nothing));
    assert_eq!(told(second(2), &Nothing), (Some("not in team-a".into()), second(1), nothing));
    assert_eq!(told(second(3), &rules()), (None, second(3), four));
    assert_eq!(told(second(4), &Nothing).1, second(3));
    assert_eq!(told(second(5), &rules()), (None, second(3), four));
}

#[test]
fn labels_alone_can_be_forbidden() {
    let pods = [pod("a", &[(keys::CAPTURE, "true")], &[])];
    let captures = [capture("all", r#"{"podSelector":{}}"#)];
    let rules = NamespaceRules { label_requests: false, ..rules() };
    let wanted = desired(&pods, &captures, &mut Accepted::default(), Timestamp::UNIX_EPOCH, &rules);
    let mut told: Vec<_> = wanted
        .into_values()
        .map(|wanted| (wanted.request.name, wanted.forbidden.map(|refusal| refusal.reason)))
        .collect();
    told.sort();
    assert_eq!(told, [(None, Some("LabelsNotAllowed".into())), (Some("all".into()), None)]);
}

#[test]
fn a_source_that_knows_when_a_capture_was_accepted_says_so() {
    let second = |seconds| Timestamp::from_second(seconds).unwrap();
    let mut known = capture("all", r#"{"podSelector":{}}"#);
    known.accepted = Some(second(5));
    let wanted = desired(&[pod("a", &[], &[])], &[known], &mut Accepted::default(), second(9), &rules());
    assert_eq!(wanted.values().next().unwrap().request.accepted, second(5));
}

#[test]
fn an_earlier_agents_times_are_kept() {
    let key = |pod: &str| RunKey {
        namespace: "team-a".into(),
        request: RequestId::PacketCapture("uid-all".into()),
        pod_uid: pod.into(),
    };
    let second = |seconds| Timestamp::from_second(seconds).unwrap();
    let mut accepted: Accepted = [(key("x"), second(9)), (key("y"), second(7))].into_iter().collect();
    let captures = [capture("all", r#"{"podSelector":{}}"#)];
    let rules = rules();
    let wanted = desired(&[pod("a", &[], &[])], &captures, &mut accepted, second(100), &rules);
    assert_eq!(wanted.values().next().unwrap().request.accepted, second(7));
}

#[test]
fn what_is_bad_refuses_its_own_run_and_no_other() {
    let mut broken = capture("broken", r#"{"podSelector":{}}"#);
    broken.spec = Err(Refusal::new(reasons::UNKNOWN_FIELD, "no such field"));
    let captures = [broken, capture("good", r#"{"podSelector":{}}"#)];
    let mut nowhere = pod("b", &[], &[]);
    nowhere.problem = Some(Refusal::new(reasons::INVALID_INTERFACE, "where?"));
    let mut results: Vec<_> = join(&[pod("a", &[], &[]), nowhere], &captures)
        .into_iter()
        .map(|wanted| {
            (
                wanted.pod.name,
                wanted.request.name.unwrap(),
                wanted.settings.err().map(|refusal| refusal.message),
            )
        })
        .collect();
    results.sort();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        results,
        [
            ("a".to_owned(), "broken".to_owned(), some("no such field")),
            ("a".to_owned(), "good".to_owned(), None),
            ("b".to_owned(), "broken".to_owned(), some("where?")),
            ("b".to_owned(), "good".to_owned(), some("where?")),
        ]
    );
}

#[test]
fn what_was_clipped_is_noted_on_the_run() {
    let captures = [capture("long", r#"{"podSelector":{},"duration":"2h"}"#)];
    let wanted = join(&[pod("a", &[], &[])], &captures);
    assert_eq!(wanted[0].notes, ["duration 2h clipped to 10m, the node's cap"]);
}
