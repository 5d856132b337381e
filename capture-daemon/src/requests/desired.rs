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
mod tests;
