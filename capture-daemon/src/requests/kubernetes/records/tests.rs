use capture_api::{PodCaptureSpec, PodCaptureStatus, RequestKind, RunState};

use super::*;

/// The record of pod "web" by its label.
pub(in crate::requests::kubernetes) fn record(name: &str, state: RunState) -> PodCapture {
    let mut record = PodCapture::new(
        name,
        PodCaptureSpec {
            pod: "web".into(),
            pod_uid: "uid-web".into(),
            namespace_uid: "uid-team-a".into(),
            request: RequestKind::Label,
            capture: None,
            request_uid: "uid-web".into(),
            node: "node1".into(),
            settings: None,
        },
    );
    record.metadata.namespace = Some("team-a".into());
    record.status = Some(PodCaptureStatus { state, ..PodCaptureStatus::default() });
    record
}

fn error(code: u16) -> kube::Result<Option<WatchedRecord>> {
    let status = kube::core::Status::failure("no", "Reason").with_code(code);
    Err(kube::Error::Api(status.boxed()))
}

#[test]
fn answers_say_whether_to_try_again() {
    assert!(matches!(outcome(Ok(None)), Outcome::Done(None)));
    assert!(matches!(outcome(error(404)), Outcome::Missing));
    assert!(matches!(outcome(error(409)), Outcome::Conflict));
    for code in [429, 500, 503, 504] {
        assert!(matches!(outcome(error(code)), Outcome::Away), "{code}");
    }
    for code in [400, 401, 403, 422] {
        assert!(matches!(outcome(error(code)), Outcome::Refused(why) if why == "no"), "{code}");
    }
}
