//! The join of pods and captures: which runs are wanted, with which settings.

use std::{collections::BTreeMap, rc::Rc};

use capture_api::{
    Caps, Defaults, PacketCaptureSpec, Refusal, RequestKind, Selection, Settings, from_annotations,
    from_spec, keys, reasons,
};
use jiff::Timestamp;

use crate::pods::Place;
use crate::session::wanted::{Allowance, PodRef, RequestId, RequestRef, RunKey, Wanted};

/// What the captures of a namespace get and cannot exceed.
pub trait Rules {
    /// The rules of that namespace.
    ///
    /// # Errors
    /// Nothing may be captured there now.
    fn of(&self, namespace: &str) -> Result<NamespaceRules, Refusal>;
}

/// What the captures of one namespace get and cannot exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceRules {
    /// For what a request does not name.
    pub defaults: Defaults,
    /// For what it asks too much of.
    pub caps: Caps,
    /// Whether a pod's label starts captures.
    pub label_requests: bool,
}

/// The same rules for every namespace.
impl Rules for NamespaceRules {
    fn of(&self, _: &str) -> Result<NamespaceRules, Refusal> {
        Ok(self.clone())
    }
}

/// A pod as its source knows it.
#[derive(Clone, Debug)]
pub struct PodObject {
    /// The pod.
    pub pod: PodRef,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Why it cannot be captured, whoever asks.
    pub problem: Option<Refusal>,
    /// What its records should say besides.
    pub notes: Vec<String>,
}

/// A PacketCapture as its source knows it.
#[derive(Clone, Debug)]
pub struct CaptureObject {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID, derived from the names where the manifest has none.
    pub uid: String,
    /// When it was accepted, where its source knows; otherwise when it is first seen.
    pub accepted: Option<Timestamp>,
    /// The pods it means.
    pub selection: Selection,
    /// What it asks for, or why that cannot be read.
    pub spec: Result<PacketCaptureSpec, Refusal>,
    /// What its records should say besides.
    pub notes: Vec<String>,
}

/// When requests were accepted. A request keeps its time as long as it is there.
#[derive(Clone, Debug, Default)]
pub struct Accepted(BTreeMap<AcceptedKey, Seen>);

/// When a request was accepted; while it is forbidden, when it was first seen.
#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Timestamp,
    accepted: bool,
}

/// A label is accepted per pod, a PacketCapture once for all its pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum AcceptedKey {
    Label { pod_uid: String },
    Capture { uid: String },
}

impl AcceptedKey {
    fn of(key: &RunKey) -> Self {
        match &key.request {
            RequestId::Label => Self::Label { pod_uid: key.pod_uid.clone() },
            RequestId::PacketCapture(uid) => Self::Capture { uid: uid.clone() },
        }
    }
}

impl FromIterator<(RunKey, Timestamp)> for Accepted {
    /// From what runs of an earlier agent say; the earliest counts.
    fn from_iter<I: IntoIterator<Item = (RunKey, Timestamp)>>(runs: I) -> Self {
        let mut accepted = Self::default();
        for (key, time) in runs {
            let known = accepted.0.entry(AcceptedKey::of(&key)).or_insert(Seen { at: time, accepted: true });
            known.at = time.min(known.at);
        }
        accepted
    }
}

/// Joins pods and captures into wanted runs. Requests that were not there before, or may be carried out for the first
/// time, are accepted `now`; the times of those that are not there any more are forgotten.
pub fn desired<'a>(
    pods: impl IntoIterator<Item = &'a PodObject>,
    captures: impl IntoIterator<Item = &'a CaptureObject>,
    accepted: &mut Accepted,
    now: Timestamp,
    rules: &dyn Rules,
) -> BTreeMap<RunKey, Wanted> {
    let mut namespaces = BTreeMap::new();
    let mut rules_of = |namespace: &'a str| -> Rc<Result<NamespaceRules, Refusal>> {
        Rc::clone(namespaces.entry(namespace).or_insert_with(|| Rc::new(rules.of(namespace))))
    };
    let mut times = Accepted::default();
    let mut accept = |key: AcceptedKey, allowed: bool| {
        let seen = match accepted.0.get(&key) {
            Some(seen) if seen.accepted || !allowed => *seen,
            _ => Seen { at: now, accepted: allowed },
        };
        times.0.entry(key).or_insert(seen).at
    };
    let mut by_namespace: BTreeMap<&str, Vec<(&CaptureObject, Timestamp)>> = BTreeMap::new();
    for capture in captures {
        let allowed = rules_of(&capture.namespace).is_ok();
        let seen = accept(AcceptedKey::Capture { uid: capture.uid.clone() }, allowed);
        let time = capture.accepted.unwrap_or(seen);
        by_namespace.entry(&capture.namespace).or_default().push((capture, time));
    }

    let mut wanted = BTreeMap::new();
    for pod in pods {
        let rules = rules_of(&pod.pod.namespace);
        let rules = rules.as_ref().as_ref();
        if let Some(asked) = label_request(pod) {
            let rules = rules.map_err(Clone::clone).and_then(|rules| match rules.label_requests {
                true => Ok(rules),
                false => Err(no_labels(&pod.pod.namespace)),
            });
            let time = accept(AcceptedKey::Label { pod_uid: pod.pod.uid.clone() }, rules.is_ok());
            let settings = |rules: &NamespaceRules| {
                asked?;
                from_annotations(&pod.annotations, time, &rules.defaults, &rules.caps)
            };
            let request =
                RequestRef { kind: RequestKind::Label, name: None, uid: pod.pod.uid.clone(), accepted: time };
            add(&mut wanted, pod, RequestId::Label, request, rules, settings, &[]);
        }
        for (capture, time) in by_namespace.get(pod.pod.namespace.as_str()).into_iter().flatten() {
            if !capture.selection.selects(&pod.pod.name, &pod.pod.labels) {
                continue;
            }
            let settings = |rules: &NamespaceRules| match &capture.spec {
                Ok(spec) => from_spec(spec, *time, &rules.defaults, &rules.caps),
                Err(refusal) => Err(refusal.clone()),
            };
            let request = RequestRef {
                kind: RequestKind::PacketCapture,
                name: Some(capture.name.clone()),
                uid: capture.uid.clone(),
                accepted: *time,
            };
            let id = RequestId::PacketCapture(capture.uid.clone());
            add(&mut wanted, pod, id, request, rules.map_err(Clone::clone), settings, &capture.notes);
        }
    }
    *accepted = times;
    wanted
}

fn no_labels(namespace: &str) -> Refusal {
    Refusal::new(
        reasons::LABELS_NOT_ALLOWED,
        format!(
            "Namespace {namespace} may not capture by label {}; create a PacketCapture instead.",
            keys::CAPTURE
        ),
    )
}

/// Whether the pod's own label asks for a capture; an error is a label that says neither yes nor no.
fn label_request(pod: &PodObject) -> Option<Result<(), Refusal>> {
    match pod.pod.labels.get(keys::CAPTURE).map(String::as_str) {
        None | Some("false" | "") => None,
        Some("true") => Some(Ok(())),
        Some(other) => Some(Err(Refusal::new(
            reasons::INVALID_VALUE,
            format!(
                "label {}: \"{other}\" is not \"true\"; write \"true\" to capture the pod.",
                keys::CAPTURE
            ),
        ))),
    }
}

fn add(
    wanted: &mut BTreeMap<RunKey, Wanted>,
    pod: &PodObject,
    id: RequestId,
    request: RequestRef,
    rules: Result<&NamespaceRules, Refusal>,
    settings: impl FnOnce(&NamespaceRules) -> Result<(Settings, Vec<String>), Refusal>,
    notes: &[String],
) {
    let key = RunKey { namespace: pod.pod.namespace.clone(), request: id, pod_uid: pod.pod.uid.clone() };
    let caps = rules.as_ref().map_or_else(|_| Caps::default(), |rules| rules.caps.clone());
    let (allowance, settings, forbidden) = match (rules, &pod.problem) {
        (Ok(rules), None) => (allowance(&rules.caps), settings(rules), None),
        (Ok(rules), Some(problem)) => (allowance(&rules.caps), Err(problem.clone()), None),
        (Err(refusal), _) => (Allowance { at_once: 0, per_hour: None }, Err(refusal.clone()), Some(refusal)),
    };
    let (settings, clipped) = match settings {
        Ok((settings, clipped)) => (Ok(settings), clipped),
        Err(refusal) => (Err(refusal), Vec::new()),
    };
    let notes = clipped.into_iter().chain(notes.iter().cloned()).chain(pod.notes.iter().cloned()).collect();
    let mut pod = pod.pod.clone();
    let interface = settings.as_ref().ok().and_then(|settings| settings.interface.clone());
    if let (Some(Place::Pod(place)), Some(_)) = (&mut pod.place, &interface) {
        place.interface = interface;
    }
    wanted.insert(key.clone(), Wanted { key, pod, request, settings, caps, notes, forbidden, allowance });
}

fn allowance(caps: &Caps) -> Allowance {
    Allowance { at_once: caps.captures, per_hour: caps.captures_per_hour }
}

#[cfg(test)]
mod tests {
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
        desired(pods, captures, &mut Accepted::default(), Timestamp::UNIX_EPOCH, &rules())
            .into_values()
            .collect()
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
            [
                ("a", false, second(1)),
                ("a", true, second(1)),
                ("b", false, second(2)),
                ("b", true, second(1))
            ]
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
}
