//! A PacketCapture as it was last seen, and what is to be made of it.

use std::sync::Arc;

use capture_api::strict::{self, FieldError, Problem};
use capture_api::{
    Caps, Defaults, PacketCaptureSpec, PacketCaptureStatus, Refusal, Settings, from_spec, reasons,
};
use jiff::Timestamp;
use kube::core::DynamicObject;

use crate::records::Request;
use crate::status::sentence;
use crate::uid::Uid;

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
    pub(crate) fn read(object: &DynamicObject) -> Option<Self> {
        let meta = &object.metadata;
        let uid = meta.uid.clone()?;
        let status = object.data.get("status").cloned().unwrap_or_default();
        Some(Self {
            name: meta.name.clone()?,
            request: Request { namespace: Arc::from(meta.namespace.as_deref()?), uid: Uid::parse(&uid)? },
            uid,
            resource_version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation.unwrap_or_default(),
            created: meta.creation_timestamp.as_ref()?.0,
            spec: read_spec(object),
            // A status that cannot be read is none of this gateway's: it is written anew.
            status: serde_json::from_value(status).unwrap_or_default(),
        })
    }

    /// Whether two versions ask for the same and are told the same.
    pub(crate) fn says_the_same(&self, other: &Self) -> bool {
        self.generation == other.generation && self.status == other.status && self.uid == other.uid
    }

    /// What is to be made of it where `caps` are the namespace's.
    pub(crate) fn judge(&self, caps: Result<Caps, Refusal>) -> Judgement {
        let spec = match &self.spec {
            Ok(spec) => spec,
            Err(refusal) => return Judgement::bad(refusal.clone()),
        };
        let (caps, refusal) = match caps {
            Ok(caps) => (caps, None),
            // Its window passes all the same.
            Err(refusal) => (Caps::default(), Some(refusal)),
        };
        let read = spec.selection().and_then(|_| from_spec(spec, self.created, &Defaults::default(), &caps));
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

fn read_spec(object: &DynamicObject) -> Result<PacketCaptureSpec, Refusal> {
    let spec = object.data.get("spec").cloned().unwrap_or_default();
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
    use serde_json::{Value, json};

    use super::*;

    pub(crate) fn capture(spec: Value) -> Capture {
        let object = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
            "metadata": {"name": "web", "namespace": "team-a", "uid": "00000000-0000-4000-8000-000000000064",
                "resourceVersion": "7", "generation": 3, "creationTimestamp": "2026-11-01T10:00:00Z"},
            "spec": spec,
        });
        Capture::read(&serde_json::from_value(object).unwrap()).unwrap()
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
            let judgement = capture(spec).judge(Ok(Caps::default()));
            let refusal = judgement.refusal.unwrap();
            assert!(judgement.settings.is_none() && refusal.message.contains(part), "{part}: {refusal}");
        }
    }

    #[test]
    fn a_request_that_may_not_be_carried_out_still_has_its_window() {
        let judgement =
            capture(json!({"podSelector": {}, "duration": "5m"})).judge(Err(Refusal::new("No", "no")));
        assert_eq!(judgement.refusal.unwrap().reason, "No");
        let (start, end) = judgement.settings.unwrap().window("2026-11-01T10:00:00Z".parse().unwrap());
        assert_eq!(end.duration_since(start).as_secs(), 300);
    }

    #[test]
    fn what_is_clipped_is_said() {
        let judgement = capture(json!({"podSelector": {}, "duration": "5h"})).judge(Ok(Caps::default()));
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
        let capture = Capture::read(&serde_json::from_value(object).unwrap()).unwrap();
        assert_eq!(capture.status, PacketCaptureStatus::default());
        assert!(capture.spec.is_ok());
    }
}
