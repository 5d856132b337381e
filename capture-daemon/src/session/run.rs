//! `run.json`: the truth about one run, beside its files. What an agent finds here after a restart decides what is
//! continued and what is over; API records and `.status` are projections of it.

use capture_api::{Refusal, RequestKind, RunState, Settings, names};
use capture_common::DirectionCounters;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    files::Files,
    progress::Delivered,
    wanted::{Allowance, RequestId, RunKey, Wanted},
};
use crate::{
    datapath::Counters,
    storage::{RunDir, StorageError},
};

/// Version of the file's shape.
pub(super) const VERSION: u32 = 1;

/// What "per hour" looks back on.
pub(super) const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// One run: one capture of one pod once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Version of this shape when it was written.
    pub version: u32,
    /// The namespace of pod and request.
    pub namespace: String,
    /// The record's name, also the directory's and the files'.
    pub record: String,
    /// Runs of the same request on the same pod count from 0: a label put on again starts the next one.
    pub number: u32,
    /// The pod's name.
    pub pod: String,
    /// The pod's UID.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// Who asked.
    pub request: RequestKind,
    /// The PacketCapture's UID; the pod's for a label.
    #[serde(rename = "requestUID")]
    pub request_uid: String,
    /// The PacketCapture's name; absent for a label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capture: Option<String>,
    /// The node.
    pub node: String,
    /// UID of the namespace; empty where there is no Kubernetes.
    #[serde(rename = "namespaceUID", default, skip_serializing_if = "String::is_empty")]
    pub namespace_uid: String,
    /// The settings in force; absent when the request was refused before it had any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
    /// What of the request was clipped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What is to be said of the run itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<String>,
    /// When the request was accepted: its window starts then, unless it names a start.
    pub accepted: Timestamp,
    /// Where the run is in its life.
    pub state: RunState,
    /// Why, in CamelCase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When the first tap was attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When the run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The request was withdrawn; the same request made again starts another run.
    #[serde(default)]
    pub released: bool,
    /// Retention is over and the files are gone. The record is kept only to know, while the request still stands,
    /// that it has been carried out.
    #[serde(default)]
    pub expired: bool,
    /// It was refused, or stopped, because nothing may be captured there at the time; see [`Wanted::forbidden`].
    #[serde(default)]
    pub forbidden: bool,
    /// When it began to count as one of its namespace's captures; absent when it was refused at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<Timestamp>,
    /// Until then it counts for the captures per hour, and is kept for that even when all else of it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts_until: Option<Timestamp>,
    /// Host interface of the latest tap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How the latest tap was attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach_mode: Option<String>,
    /// What taps that are gone counted, together.
    #[serde(default, with = "CountersShape")]
    pub counted: Counters,
    /// What is in the files, and what was kept out.
    #[serde(default)]
    pub delivered: Delivered,
    /// The sequence number of the next file.
    #[serde(default)]
    pub next_sequence: u32,
    /// Its files.
    #[serde(flatten)]
    pub files: Files,
}

/// Why a directory is no run that this agent can go on with.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// `run.json` is missing or cut off: nobody can.
    Damaged(String),
    /// Another agent may.
    Other(String),
}

impl Run {
    /// A run that has not begun.
    pub(super) fn new(wanted: &Wanted, number: u32, node: &str) -> Self {
        let capture = wanted.request.name.clone();
        Self {
            version: VERSION,
            namespace: wanted.pod.namespace.clone(),
            record: names::record(
                capture.as_deref(),
                &wanted.pod.name,
                &wanted.request.uid,
                &wanted.pod.uid,
                number,
            ),
            number,
            pod: wanted.pod.name.clone(),
            pod_uid: wanted.pod.uid.clone(),
            request: wanted.request.kind,
            request_uid: wanted.request.uid.clone(),
            capture,
            node: node.to_owned(),
            namespace_uid: wanted.pod.namespace_uid.clone(),
            settings: wanted.settings.as_ref().ok().cloned(),
            notes: wanted.notes.clone(),
            remarks: Vec::new(),
            accepted: wanted.request.accepted,
            state: RunState::Pending,
            reason: None,
            message: None,
            started: None,
            ended: None,
            released: false,
            expired: false,
            forbidden: false,
            begun: None,
            counts_until: None,
            interface: None,
            attach_mode: None,
            counted: Counters::default(),
            delivered: Delivered::default(),
            next_sequence: 0,
            files: Files::default(),
        }
    }

    /// The run that an earlier agent left in a directory, with the files that are there.
    pub(super) fn left_in(dir: &RunDir) -> Result<Self, Unreadable> {
        let other = |error: StorageError| Unreadable::Other(error.to_string());
        let damaged = || Unreadable::Damaged("it holds no run.json".into());
        let json = dir.read_json().map_err(other)?.ok_or_else(damaged)?;
        let mut run: Self = serde_json::from_slice(&json).map_err(|error| {
            let text = format!("run.json: {error}");
            // Whole JSON of another shape is another agent's, which may come back.
            if error.is_data() { Unreadable::Other(text) } else { Unreadable::Damaged(text) }
        })?;
        if run.version != VERSION {
            let text = format!("run.json has version {}, this agent reads {VERSION}", run.version);
            return Err(Unreadable::Other(text));
        }
        let files = dir.files().map_err(other)?;
        if let Some(last) = files.iter().map(|file| file.sequence).max() {
            run.next_sequence = run.next_sequence.max(last + 1);
        }
        run.files.found(files);
        // Packets are counted by files: what run.json says of them may be some seconds older than the agent's end.
        run.delivered.packets = run.files.packets();
        Ok(run)
    }

    /// Whose run it is.
    #[must_use]
    pub fn key(&self) -> RunKey {
        RunKey {
            namespace: self.namespace.clone(),
            request: match self.request {
                RequestKind::Label => RequestId::Label,
                RequestKind::PacketCapture => RequestId::PacketCapture(self.request_uid.clone()),
            },
            pod_uid: self.pod_uid.clone(),
        }
    }

    /// Sets the state with its reason and message.
    pub fn set(&mut self, state: RunState, reason: &str, message: impl Into<String>) {
        self.state = state;
        self.reason = (!reason.is_empty()).then(|| reason.to_owned());
        let message = message.into();
        self.message = (!message.is_empty()).then_some(message);
    }

    /// Sets the state to Refused or Failed for that cause.
    pub fn refuse(&mut self, state: RunState, cause: &Refusal) {
        self.set(state, &cause.reason, cause.message.clone());
    }

    /// It counts as one of its namespace's captures from now on.
    pub(super) fn count(&mut self, allowance: Allowance, now: Timestamp) {
        self.begun = Some(now);
        self.counts_until = allowance.per_hour.and_then(|_| now.checked_add(HOUR).ok());
    }
}

/// How [`Counters`] are written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Counters", rename_all = "camelCase")]
struct CountersShape {
    #[serde(with = "DirectionShape")]
    from_pod: DirectionCounters,
    #[serde(with = "DirectionShape")]
    to_pod: DirectionCounters,
}

/// How [`DirectionCounters`] are written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "DirectionCounters", rename_all = "camelCase")]
struct DirectionShape {
    seen: u64,
    matched: u64,
    captured: u64,
    bytes: u64,
    sampled_out: u64,
    rate_limited: u64,
    ring_full: u64,
    truncated: u64,
}
