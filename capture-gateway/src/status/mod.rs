//! What the status of a PacketCapture should be: a function of the request, the sums of its runs, the status before and
//! the time. Who reads only this file knows what users are told, and when.

mod conditions;
mod text;

use capture_api::{DesiredState, PacketCaptureStatus, Settings};
use jiff::Timestamp;

use self::conditions::{Says, condition};
pub(crate) use self::conditions::{find, is_true};
pub(crate) use self::text::sentence;
use crate::captures::{Capture, Judgement};
use crate::records::Sums;

/// The request makes sense and may be carried out.
pub(crate) const ACCEPTED: &str = "Accepted";
/// Some pod is captured at the moment.
pub(crate) const CAPTURING: &str = "Capturing";
/// The window is over, or the capture was stopped, and every run has ended.
pub(crate) const COMPLETED: &str = "Completed";

/// What differs between two statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Packets, bytes and drops only.
    Counters,
    /// What people wait for.
    State,
}

/// What has changed, if anything has.
pub(crate) fn change(old: &PacketCaptureStatus, new: &PacketCaptureStatus) -> Option<Change> {
    if old == new {
        return None;
    }
    let state =
        PacketCaptureStatus { packets: old.packets, bytes: old.bytes, dropped: old.dropped, ..new.clone() };
    Some(if state == *old { Change::Counters } else { Change::State })
}

/// Where the window is.
#[derive(Clone, Copy)]
enum Window {
    Before(Timestamp),
    Open(Timestamp),
    /// Over; true when the user stopped it.
    Over(bool),
}

impl Window {
    fn of(settings: &Settings, created: Timestamp, now: Timestamp) -> Self {
        let (start, end) = settings.window(created);
        if settings.state == DesiredState::Stopped {
            Self::Over(true)
        } else if now >= end {
            Self::Over(false)
        } else if now < start {
            Self::Before(start)
        } else {
            Self::Open(end)
        }
    }
}

/// When the window opens or closes next, which changes the status without any other event.
pub(crate) fn next_edge(judgement: &Judgement, created: Timestamp, now: Timestamp) -> Option<Timestamp> {
    match Window::of(judgement.settings.as_ref()?, created, now) {
        Window::Before(edge) | Window::Open(edge) => Some(edge),
        Window::Over(_) => None,
    }
}

/// The status that the capture should have.
pub(crate) fn status(
    capture: &Capture,
    judgement: &Judgement,
    sums: &Sums,
    now: Timestamp,
) -> PacketCaptureStatus {
    let before = &capture.status;
    let window = judgement.settings.as_ref().map(|settings| Window::of(settings, capture.created, now));
    let over = matches!(window, Some(Window::Over(_))) && sums.unfinished() == 0;
    let mut status = counts(before, sums);
    status.observed_generation = Some(capture.generation);
    let told =
        before.observed_generation == Some(capture.generation) && is_true(&before.conditions, COMPLETED);
    if over && told {
        // It is over and has been told: what policies say afterwards, and records that are removed, change nothing.
        status.conditions.clone_from(&before.conditions);
        return status;
    }
    let facts = Facts { capture, judgement, sums, window };
    let says = [(ACCEPTED, facts.accepted()), (CAPTURING, facts.capturing()), (COMPLETED, facts.completed())];
    status.conditions = says
        .into_iter()
        .map(|(kind, says)| condition(&before.conditions, kind, says, capture.generation, now))
        .collect();
    status
}

/// The numbers. Those that count what has been never fall: when fewer pods are known than were told before, records
/// have been removed since, and the larger number is the truer one.
fn counts(before: &PacketCaptureStatus, sums: &Sums) -> PacketCaptureStatus {
    let removed = sums.pods < before.pods;
    let total = |now: u64, before: u64| if removed { now.max(before) } else { now };
    PacketCaptureStatus {
        pods: total(sums.pods, before.pods),
        capturing: sums.waiting + sums.capturing,
        finished: total(sums.completed + sums.stopped, before.finished),
        failed: total(sums.refused + sums.failed, before.failed),
        packets: total(sums.packets, before.packets),
        bytes: total(sums.bytes, before.bytes),
        dropped: total(sums.dropped, before.dropped),
        ..PacketCaptureStatus::default()
    }
}

struct Facts<'a> {
    capture: &'a Capture,
    judgement: &'a Judgement,
    sums: &'a Sums,
    /// None when the request makes no sense.
    window: Option<Window>,
}

impl Facts<'_> {
    fn accepted(&self) -> Says {
        if let Some(refusal) = &self.judgement.refusal {
            return Says::no(text::reason(&refusal.reason), &*refusal.message);
        }
        let mut message =
            match self.judgement.settings.as_ref().map(|settings| settings.window(self.capture.created)) {
                Some((start, end)) => {
                    format!("Captures {} from {start:.0} to {end:.0}.", text::pods(&self.capture.spec))
                }
                None => String::new(),
            };
        for note in &self.judgement.notes {
            message.push(' ');
            message.push_str(&sentence(note));
        }
        Says::yes("Accepted", message)
    }

    fn capturing(&self) -> Says {
        let sums = self.sums;
        let tapped = sums.waiting + sums.capturing;
        if tapped > 0 {
            let mut message = format!("{tapped} of {} are captured.", text::count(sums.pods, "pod"));
            if sums.waiting > 0 {
                message.push_str(&format!(
                    " {} without a matching packet yet.",
                    text::count(sums.waiting, "pod")
                ));
            }
            return Says::yes("Capturing", message);
        }
        let Some(window) = self.window else {
            return Says::no("NotAccepted", "The request makes no sense: see the condition Accepted.");
        };
        match window {
            Window::Over(_) if sums.unfinished() == 0 => Says::no("Ended", "The capture has ended."),
            Window::Over(_) => Says::no("Ending", "The capture is ending."),
            _ if self.judgement.refusal.is_some() => {
                Says::no("NotAllowed", "Nothing may be captured: see the condition Accepted.")
            }
            Window::Before(start) => Says::no("Scheduled", format!("Begins at {start:.0}.")),
            Window::Open(end) => self.waiting(end),
        }
    }

    /// The window is open and nothing is captured.
    fn waiting(&self, end: Timestamp) -> Says {
        let sums = self.sums;
        if self.judgement.settings.as_ref().is_some_and(|settings| settings.state == DesiredState::Paused) {
            return Says::no(
                "Paused",
                "Nothing is captured until spec.state is Running again. The window goes on.",
            );
        }
        if sums.unfinished() > 0 {
            let pods = text::count(sums.unfinished(), "pod");
            return Says::no(
                "Starting",
                format!("{pods} will be captured when their nodes are ready for it."),
            );
        }
        if sums.pods == 0 {
            return Says::no(
                "NoPods",
                format!(
                    "No pod is captured: {} selects none in this namespace, as far as podtap's agents know. Pods that \
                     come later join until {end:.0}.",
                    text::selectors(&self.capture.spec)
                ),
            );
        }
        let failed = sums.refused + sums.failed;
        let which = text::list_of_runs(&self.capture.name);
        if sums.completed + sums.stopped == 0 {
            return Says::no(
                "Failed",
                format!(
                    "{} could not be captured; {which} shows why. Pods that come later join until {end:.0}.",
                    text::count(failed, "run")
                ),
            );
        }
        Says::no(
            "RunsEnded",
            format!(
                "All runs have ended (a limit was reached, or the pod is gone); {which} shows why. Pods that come \
                 later join until {end:.0}."
            ),
        )
    }

    fn completed(&self) -> Says {
        let sums = self.sums;
        let stopped = match self.window {
            None => {
                return Says::no("NotAccepted", "The request makes no sense: see the condition Accepted.");
            }
            Some(Window::Before(start)) => return Says::no("Scheduled", format!("Begins at {start:.0}.")),
            Some(Window::Open(end)) => return Says::no("WindowOpen", format!("Ends at {end:.0}.")),
            Some(Window::Over(stopped)) => stopped,
        };
        if sums.unfinished() > 0 {
            let (runs, nodes) = (text::count(sums.unfinished(), "run"), sums.busy_nodes.join(", "));
            return Says::no(
                "RunsUnfinished",
                format!(
                    "{runs} must still end (node {nodes}). If this lasts, look at the podtap agent there."
                ),
            );
        }
        let why = if stopped { "The capture was stopped" } else { "The window is over" };
        let reason = if stopped { "Stopped" } else { "WindowOver" };
        let ended = counts(&self.capture.status, sums);
        let message = if ended.pods == 0 {
            let why_none = match &self.judgement.refusal {
                Some(_) => "see the condition Accepted".to_owned(),
                None => format!("{} selected none in this namespace", text::selectors(&self.capture.spec)),
            };
            format!("{why}. No pod was captured: {why_none}.")
        } else if ended.failed == 0 {
            format!("{why}, and every run has ended.")
        } else {
            let which = text::list_of_runs(&self.capture.name);
            format!("{why}, and every run has ended, {} without success; {which} shows why.", ended.failed)
        };
        Says::yes(reason, message)
    }
}

#[cfg(test)]
mod tests;
