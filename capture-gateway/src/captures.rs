//! A PacketCapture as it was last seen, and what is to be made of it.

use std::sync::Arc;

use capture_api::strict::{self, FieldError, Problem};
use capture_api::{
    Caps, PacketCapture, PacketCaptureSpec, PacketCaptureStatus, Refusal, Settings, few_metadata, from_spec,
    reasons,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::Deserialize;
use serde_json::Value;

use crate::agents::Agents;
use crate::records::Request;
use crate::status::sentence;
use crate::uid::Uid;

/// A PacketCapture as it is read. Whatever users write into it does not keep it from being read.
#[derive(Clone, Debug, Deserialize, Resource)]
#[resource(inherit = "PacketCapture")]
pub(crate) struct CaptureObject {
    #[serde(deserialize_with = "few_metadata")]
    pub(crate) metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
}

/// A PacketCapture as it was last seen.
#[derive(Clone, Debug)]
pub(crate) struct Capture {
    pub(crate) name: String,
    /// Its UID as text, for writing.
    pub(crate) uid: String,
    pub(crate) request: Request,
    pub(crate) resource_version: String,
    pub(crate) generation: i64,
    /// When it was made: its window starts here unless it names a start.
    pub(crate) created: Timestamp,
    /// What it asks for, or why that cannot be read.
    pub(crate) spec: Result<PacketCaptureSpec, Refusal>,
    /// Bytes of it.
    pub(crate) size: usize,
    pub(crate) status: PacketCaptureStatus,
}

/// What is to be made of a request: how it works, and whether it may.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    /// The settings in force; none when the request makes no sense.
    pub(crate) settings: Option<Settings>,
    /// What was clipped, one sentence each.
    pub(crate) notes: Vec<String>,
    /// Why it is not carried out.
    pub(crate) refusal: Option<Refusal>,
}

impl Capture {
    /// Reads the object. None when it has no UID yet, which no API server shows.
    pub(crate) fn read(object: CaptureObject) -> Option<Self> {
        let CaptureObject { metadata: meta, spec, status } = object;
        let uid = meta.uid.clone()?;
        Some(Self {
            name: meta.name.clone()?,
            request: Request { namespace: Arc::from(meta.namespace.as_deref()?), uid: Uid::parse(&uid)? },
            uid,
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref()?.0,
            size: spec.to_string().len(),
            spec: read_spec(spec),
            // A status that cannot be read is none of this gateway's: it is written anew.
            status: serde_json::from_value(status).unwrap_or_default(),
        })
    }

    /// Whether two versions ask for the same and are told the same.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.generation == other.generation
            && self.status == other.status
            && self.uid == other.uid
            && self.spec.is_ok() == other.spec.is_ok()
    }

    /// What is to be made of it where `caps` are the namespace's and agents are configured so.
    pub(crate) fn judge(&self, caps: Result<Caps, Refusal>, agents: &Agents) -> Judgement {
        let spec = match &self.spec {
            Ok(spec) => spec,
            Err(refusal) => return Judgement::bad(refusal.clone()),
        };
        let (caps, refusal) = match caps {
            Ok(caps) => (caps, None),
            // Its window passes all the same.
            Err(refusal) => (agents.caps.clone(), Some(refusal)),
        };
        let read = spec.selection().and_then(|_| from_spec(spec, self.created, &agents.defaults, &caps));
        match read {
            Ok((settings, notes)) => Judgement { settings: Some(settings), notes, refusal },
            Err(problem) => Judgement::bad(problem),
        }
    }
}

impl Judgement {
    fn bad(refusal: Refusal) -> Self {
        Self { settings: None, notes: Vec::new(), refusal: Some(refusal) }
    }
}

fn read_spec(spec: Value) -> Result<PacketCaptureSpec, Refusal> {
    strict::check::<PacketCaptureSpec>(&spec, "spec").map_err(|error| refusal(&error))?;
    let unreadable =
        |error| Refusal::new(reasons::INVALID_VALUE, format!("The capture cannot be read: {error}."));
    serde_json::from_value(spec).map_err(unreadable)
}

/// What is wrong with a field, told as a sentence.
fn refusal(error: &FieldError) -> Refusal {
    let reason = match error.problem {
        Problem::Unknown { .. } => reasons::UNKNOWN_FIELD,
        _ => reasons::INVALID_VALUE,
    };
    Refusal::new(reason, sentence(&error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn capture(spec: Value) -> Capture {
        let object = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
            "metadata": {"name": "web", "namespace": "team-a", "uid": "00000000-0000-4000-8000-000000000064",
                "resourceVersion": "7", "generation": 3, "creationTimestamp": "2026-11-01T10:00:00Z"},
            "spec": spec,
        });
        Capture::read(serde_json::from_value(object).unwrap()).unwrap()
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_its_field() {
        for (spec, part) in [
            (json!({"podSelector": {}, "durration": "1m"}), "spec.duration?"),
            (json!({"podSelector": {}, "duration": "1d"}), "spec.duration: \"1d\""),
            (json!({"podSelector": {}, "headersOnly": "yes"}), "spec.headersOnly must be true or false"),
            (json!({}), "spec.podSelector"),
            (json!({"podSelector": {}, "endTime": "2026-11-01T10:00:00Z", "duration": "1m"}), "both set"),
        ] {
            let judgement = capture(spec).judge(Ok(Caps::default()), &Agents::default());
            let refusal = judgement.refusal.unwrap();
            assert!(judgement.settings.is_none() && refusal.message.contains(part), "{part}: {refusal}");
        }
    }

    #[test]
    fn a_request_that_may_not_be_carried_out_still_has_its_window() {
        let judgement = capture(json!({"podSelector": {}, "duration": "5m"}))
            .judge(Err(Refusal::new("No", "no")), &Agents::default());
        assert_eq!(judgement.refusal.unwrap().reason, "No");
        let (start, end) = judgement.settings.unwrap().window("2026-11-01T10:00:00Z".parse().unwrap());
        assert_eq!(end.duration_since(start).as_secs(), 300);
    }

    #[test]
    fn a_window_that_nobody_names_is_as_long_as_agents_make_it() {
        let agents = Agents::read(Some("defaults: {duration: 1h}\ncaps: {duration: 2h}\n")).unwrap();
        let refused = Err(Refusal::new("No", "no"));
        for (spec, caps, seconds) in [
            (json!({"podSelector": {}}), Ok(agents.caps.clone()), 3600),
            (json!({"podSelector": {}, "duration": "5h"}), Ok(agents.caps.clone()), 7200),
            (json!({"podSelector": {}, "duration": "5h"}), refused, 7200),
        ] {
            let created = "2026-11-01T10:00:00Z".parse().unwrap();
            let (start, end) = capture(spec).judge(caps, &agents).settings.unwrap().window(created);
            assert_eq!(end.duration_since(start).as_secs(), seconds);
        }
    }

    #[test]
    fn what_is_clipped_is_said() {
        let judgement = capture(json!({"podSelector": {}, "duration": "5h"}))
            .judge(Ok(Caps::default()), &Agents::default());
        assert!(judgement.notes[0].contains("duration 5h clipped to 10m"), "{:?}", judgement.notes);
    }

    #[test]
    fn a_foreign_status_does_not_keep_a_capture_from_being_read() {
        let object = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
            "metadata": {"name": "web", "namespace": "team-a", "uid": "00000000-0000-4000-8000-000000000064",
                "creationTimestamp": "2026-11-01T10:00:00Z"},
            "spec": {"podSelector": {}}, "status": {"pods": "many"},
        });
        let capture = Capture::read(serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!(capture.status, PacketCaptureStatus::default());
        assert!(capture.spec.is_ok());
    }
}
