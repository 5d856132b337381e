//! What a session shows of itself: the state, its reason, and what is noted of the run.

use capture_api::RunState;
use tracing::info;

use super::Session;

impl Session {
    /// Sets what the record shows, when it is something else.
    pub(super) fn show(&mut self, state: RunState, reason: &str, message: &str) {
        let run = &self.run;
        let same = run.state == state && run.reason.as_deref().unwrap_or("") == reason;
        if same && run.message.as_deref().unwrap_or("") == message {
            return;
        }
        if run.state != state {
            info!(namespace = run.namespace, record = run.record, ?state, reason, message);
        }
        self.run.set(state, reason, message);
        if same && state == RunState::WaitingForTraffic {
            // Only how many packets were not taken: that is shown with the counters.
            self.moved = true;
        } else {
            self.unsaved = true;
        }
    }

    pub(super) fn show_capturing(&mut self) {
        let bypass = self.bypass.told(self.run.interface.as_deref().unwrap_or("that it has"));
        let nothing = self.progress.delivered().packets == 0;
        let state = if nothing { RunState::WaitingForTraffic } else { RunState::Capturing };
        match bypass {
            Some((reason, message)) => self.show(state, reason, &message),
            None if nothing => {
                let counted = self.counted().total();
                let none_matched = counted.seen > 0 && counted.matched == 0;
                let reason = if none_matched { "FilterMatchedNone" } else { "NoPacketYet" };
                let message = self.what_was_seen();
                self.show(state, reason, &message);
            }
            None => self.show(state, "Capturing", ""),
        }
    }

    /// Why there is nothing, if there is nothing.
    pub(super) fn what_was_seen(&self) -> String {
        let counted = self.counted().total();
        let packets = self.progress.delivered().packets;
        if packets > 0 {
            format!("{packets} packets were captured.")
        } else if counted.seen == 0 {
            "No packet has passed the pod's interface.".into()
        } else if counted.matched == 0 {
            format!("The filter accepted none of {} packets.", counted.seen)
        } else {
            format!("{} packets matched and none was kept: see drops and sampling.", counted.matched)
        }
    }

    /// Something to be said of the run, whatever is asked for.
    pub(super) fn note(&mut self, note: String) {
        if !self.run.remarks.contains(&note) {
            self.run.remarks.push(note);
            self.unsaved = true;
        }
    }
}
