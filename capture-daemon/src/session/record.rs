//! What users see of a run: its PodCapture, a projection of `run.json` and the counters.

use capture_api::{DirectionStatus, Drops, PodCapture, PodCaptureSpec, PodCaptureStatus, Refusal};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Session, wanted::Wanted};

/// Where records are shown: files beside the data, or an API server. What cannot be shown is logged there; the run
/// itself does not depend on it.
pub trait Records: Send {
    /// Shows the record as it is now. False when it is to be tried again: it cannot be shown for the moment.
    fn publish(&self, record: &PodCapture) -> bool;
    /// The run was refused and gets no record, since its namespace has too many of these.
    fn turned_away(&self, wanted: &Wanted, refusal: &Refusal) {
        let _ = (wanted, refusal);
    }
    /// Takes the record away. One that is gone already is no error.
    fn remove(&self, namespace: &str, record: &str);
    /// Called at the start: records of this node that `known` does not know, by namespace and name, are left over from
    /// runs that are gone, and are to be taken away.
    fn sweep(&self, known: &dyn Fn(&str, &str) -> bool) {
        let _ = known;
    }
}

/// The record of a run, as users see it.
pub(super) fn record(session: &Session) -> PodCapture {
    let run = &session.run;
    let counted = session.counted();
    let delivered = session.progress.delivered();
    let total = counted.total();
    let direction = |of: &capture_common::DirectionCounters| DirectionStatus {
        seen: of.seen,
        matched: of.matched,
        captured: of.captured,
        bytes: of.bytes,
    };
    let (files, files_not_listed) = run.files.statuses();
    let mut status = PodCaptureStatus {
        state: run.state,
        reason: run.reason.clone(),
        message: run.message.clone(),
        notes: session.change.notes().chain(run.notes.iter().chain(&run.remarks).cloned()).collect(),
        from_pod: direction(&counted.from_pod),
        to_pod: direction(&counted.to_pod),
        drops: Drops { ring: total.ring_full, rate: total.rate_limited, storage: delivered.storage_drops },
        sampled_out: total.sampled_out,
        truncated: total.truncated,
        beyond_limit: delivered.beyond_limit,
        interface: run.interface.clone(),
        attach_mode: run.attach_mode.clone(),
        files,
        files_not_listed,
        packets: delivered.packets,
        bytes: run.files.bytes(),
        start_time: run.started,
        end_time: run.ended,
        ..PodCaptureStatus::default()
    };
    status.summarize();
    let mut record = PodCapture::new(
        &run.record,
        PodCaptureSpec {
            pod: run.pod.clone(),
            pod_uid: run.pod_uid.clone(),
            namespace_uid: run.namespace_uid.clone(),
            request: run.request,
            capture: run.capture.clone(),
            request_uid: run.request_uid.clone(),
            node: run.node.clone(),
            settings: run.settings.clone(),
        },
    );
    record.metadata.namespace = Some(run.namespace.clone());
    record.metadata.creation_timestamp = Some(Time(run.accepted));
    record.status = Some(status);
    record
}
