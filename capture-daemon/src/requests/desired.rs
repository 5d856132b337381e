//! The join of pods and captures: which runs are wanted, with which settings.

use std::collections::BTreeMap;

use capture_api::{
    Caps, Defaults, PacketCaptureSpec, Refusal, RequestKind, Selection, Settings, from_annotations,
    from_spec, keys, reasons,
};
use jiff::Timestamp;

use crate::session::wanted::{PodRef, RequestId, RequestRef, RunKey, Wanted};

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
    /// The pods it means.
    pub selection: Selection,
    /// What it asks for, or why that cannot be read.
    pub spec: Result<PacketCaptureSpec, Refusal>,
    /// What its records should say besides.
    pub notes: Vec<String>,
}

/// When requests were accepted. A request keeps its time as long as it is there.
#[derive(Clone, Debug, Default)]
pub struct Accepted(BTreeMap<AcceptedKey, Timestamp>);

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
            let known = accepted.0.entry(AcceptedKey::of(&key)).or_insert(time);
            *known = time.min(*known);
        }
        accepted
    }
}

/// Joins pods and captures into wanted runs. Requests that were not there before are accepted `now`; the times of
/// those that are not there any more are forgotten.
pub fn desired<'a>(
    pods: impl IntoIterator<Item = &'a PodObject>,
    captures: impl IntoIterator<Item = &'a CaptureObject>,
    accepted: &mut Accepted,
    now: Timestamp,
    defaults: &Defaults,
    caps: &Caps,
) -> BTreeMap<RunKey, Wanted> {
    let mut times = Accepted::default();
    let mut accept = |key: AcceptedKey| {
        let time = accepted.0.get(&key).copied().unwrap_or(now);
        *times.0.entry(key).or_insert(time)
    };
    let mut by_namespace: BTreeMap<&str, Vec<(&CaptureObject, Timestamp)>> = BTreeMap::new();
    for capture in captures {
        let time = accept(AcceptedKey::Capture { uid: capture.uid.clone() });
        by_namespace.entry(&capture.namespace).or_default().push((capture, time));
    }

    let mut wanted = BTreeMap::new();
    for pod in pods {
        if let Some(asked) = label_request(pod) {
            let time = accept(AcceptedKey::Label { pod_uid: pod.pod.uid.clone() });
            let settings = asked.and_then(|()| from_annotations(&pod.annotations, time, defaults, caps));
            let request =
                RequestRef { kind: RequestKind::Label, name: None, uid: pod.pod.uid.clone(), accepted: time };
            add(&mut wanted, pod, RequestId::Label, request, settings, &[]);
        }
        for (capture, time) in by_namespace.get(pod.pod.namespace.as_str()).into_iter().flatten() {
            if !capture.selection.selects(&pod.pod.name, &pod.pod.labels) {
                continue;
            }
            let settings = match &capture.spec {
                Ok(spec) => from_spec(spec, *time, defaults, caps),
                Err(refusal) => Err(refusal.clone()),
            };
            let request = RequestRef {
                kind: RequestKind::PacketCapture,
                name: Some(capture.name.clone()),
                uid: capture.uid.clone(),
                accepted: *time,
            };
            let id = RequestId::PacketCapture(capture.uid.clone());
            add(&mut wanted, pod, id, request, settings, &capture.notes);
        }
    }
    *accepted = times;
    wanted
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
    settings: Result<(Settings, Vec<String>), Refusal>,
    notes: &[String],
) {
    let key = RunKey { namespace: pod.pod.namespace.clone(), request: id, pod_uid: pod.pod.uid.clone() };
    let settings = match &pod.problem {
        Some(problem) => Err(problem.clone()),
        None => settings,
    };
    let (settings, clipped) = match settings {
        Ok((settings, clipped)) => (Ok(settings), clipped),
        Err(refusal) => (Err(refusal), Vec::new()),
    };
    let notes = clipped.into_iter().chain(notes.iter().cloned()).chain(pod.notes.iter().cloned()).collect();
    wanted.insert(key.clone(), Wanted { key, pod: pod.pod.clone(), request, settings, notes });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::pods::Place;

    fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn pod(name: &str, labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> PodObject {
        PodObject {
            pod: PodRef {
                namespace: "team-a".into(),
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
            selection: spec.selection().unwrap(),
            spec: Ok(spec),
            notes: Vec::new(),
        }
    }

    fn join(pods: &[PodObject], captures: &[CaptureObject]) -> Vec<Wanted> {
        let (defaults, caps) = (Defaults::default(), Caps::default());
        desired(pods, captures, &mut Accepted::default(), Timestamp::UNIX_EPOCH, &defaults, &caps)
            .into_values()
            .collect()
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
        let (defaults, caps) = (Defaults::default(), Caps::default());
        let mut accepted = Accepted::default();
        let second = |seconds| Timestamp::from_second(seconds).unwrap();
        let captures = [capture("all", r#"{"podSelector":{}}"#)];
        let first = [pod("a", &[(keys::CAPTURE, "true")], &[])];
        desired(&first, &captures, &mut accepted, second(1), &defaults, &caps);
        let both = [first[0].clone(), pod("b", &[(keys::CAPTURE, "true")], &[])];
        let wanted = desired(&both, &captures, &mut accepted, second(2), &defaults, &caps);
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
        desired(&[pod("a", &[], &[])], &captures, &mut accepted, second(3), &defaults, &caps);
        let wanted = desired(&first, &captures, &mut accepted, second(4), &defaults, &caps);
        let label = wanted.values().find(|wanted| wanted.request.kind == RequestKind::Label).unwrap();
        assert_eq!(label.request.accepted, second(4));
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
        let (defaults, caps) = (Defaults::default(), Caps::default());
        let wanted = desired(&[pod("a", &[], &[])], &captures, &mut accepted, second(100), &defaults, &caps);
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
