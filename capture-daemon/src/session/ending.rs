//! How a run ends: by its request, by its limits, by what forbids or prevents it. The reason and the sentence are what
//! users read of it.

use std::borrow::Cow;

use capture_api::{Refusal, RunState};
use jiff::Timestamp;
use tracing::info;

use super::{Phase, Run, Session, sink::Limit};
use crate::storage::StorageFailure;

/// How a run ends.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    state: RunState,
    reason: Cow<'static, str>,
    message: String,
}

impl Ending {
    pub(super) fn new(
        state: RunState,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        Self { state, reason: reason.into(), message: message.into() }
    }

    /// Makes it the run's state.
    pub(super) fn tell(&self, run: &mut Run) {
        run.set(self.state, &self.reason, self.message.clone());
    }
}

/// How a run ends that may not go on.
pub(super) fn forbidden(run: &Run, refusal: &Refusal) -> Ending {
    let (state, kept) = match run.started {
        Some(_) => (RunState::Stopped, " Files are kept until retention ends."),
        None => (RunState::Refused, ""),
    };
    Ending::new(state, refusal.reason.clone(), format!("{}{kept}", refusal.message))
}

/// How a run ends whose request was withdrawn.
pub(super) fn withdrawn() -> Ending {
    Ending::new(
        RunState::Stopped,
        "RequestRemoved",
        "The label, the PacketCapture or the pod is gone. Files are kept until retention ends.",
    )
}

/// How a run ends that has nowhere to write to.
pub(super) fn storage_failed(reason: &StorageFailure) -> Ending {
    let (short, advice) = match reason {
        StorageFailure::DiskFull => ("DiskFull", "Free space on the node, then ask again."),
        StorageFailure::Quota => {
            ("QuotaReached", "Delete captures that are not needed any more, then ask again.")
        }
        StorageFailure::NamespaceQuota => (
            "NamespaceQuotaReached",
            "Delete captures of this namespace that are not needed any more, or wait until their retention ends, then \
             ask again.",
        ),
        StorageFailure::Io(_) => ("WriteFailed", "Have the node's data directory looked at, then ask again."),
    };
    Ending::new(RunState::Failed, short, format!("Nothing more can be written: {reason}. {advice}"))
}

impl Session {
    /// Nothing may be captured there now: what runs ends for good, what has not begun waits to be allowed. None lifts
    /// it from a run that has not ended.
    pub(super) fn forbid(&mut self, refusal: Option<&Refusal>) {
        match refusal {
            Some(refusal) if self.run.state == RunState::Refused => {
                self.run.refuse(RunState::Refused, refusal);
                self.run.forbidden = true;
            }
            Some(refusal) if !self.is_over() => {
                self.run.forbidden = true;
                if self.run.started.is_some() {
                    self.end(forbidden(&self.run, refusal));
                }
            }
            None if !self.is_over() => self.run.forbidden = false,
            _ => {}
        }
    }

    /// The request was withdrawn.
    pub(super) fn withdraw(&mut self) {
        self.wanted = None;
        self.run.released = true;
        self.end(withdrawn());
        self.unsaved = true;
    }

    pub(super) fn end(&mut self, ending: Ending) {
        self.look_soon();
        self.ending.get_or_insert(ending);
    }

    pub(super) fn limit_reached(&mut self, limit: Limit) {
        let (reason, message) = match limit {
            Limit::Packets => ("PacketLimit", "The capture has as many packets as it may have."),
            Limit::Bytes => ("ByteLimit", "The capture's files are as large as they may get."),
        };
        self.end(Ending::new(RunState::Completed, reason, message));
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) -> Phase {
        self.run.refuse(RunState::Refused, refusal);
        self.finish()
    }

    pub(super) fn conclude(&mut self, ending: &Ending) -> Phase {
        if ending.state != RunState::Refused || self.run.state != RunState::Refused {
            ending.tell(&mut self.run);
        }
        self.finish()
    }

    fn finish(&mut self) -> Phase {
        // What is in files that are still to be read is not known yet.
        let nothing = self.mending.is_empty() && self.progress.delivered().packets == 0;
        if self.run.started.is_some() && nothing {
            let why = self.what_was_seen();
            if !self.run.message.as_ref().is_some_and(|message| message.contains(&why)) {
                self.note(why);
            }
        }
        let run = &self.run;
        info!(
            namespace = run.namespace,
            record = run.record,
            state = ?run.state,
            reason = run.reason,
            message = run.message,
            packets = self.progress.delivered().packets,
            "capture ended"
        );
        self.run.ended = Some(Timestamp::now());
        self.run.delivered = self.progress.delivered();
        self.unsaved = true;
        Phase::Over
    }

    pub(super) fn fail(&mut self, reason: &'static str, error: String) -> Phase {
        self.conclude(&Ending::new(RunState::Failed, reason, error))
    }
}
