//! What a session should do now, and when that may be something else. Nothing of it is kept: it follows from the request,
//! the clock, the caps and what has ended the run.

use std::time::{Duration, Instant};

use capture_api::{DesiredState, RunState, Settings};
use jiff::Timestamp;

use super::{
    Phase, Session,
    ending::{Ending, forbidden},
};

/// What a session should do now.
pub(super) enum Goal {
    /// Wait for the window to open.
    Wait(Timestamp),
    /// Let packets arrive.
    Capture,
    /// Keep the tap, and let none arrive.
    Pause,
    /// End, for good.
    End(Ending),
}

impl Session {
    /// When the window opens and closes.
    fn window(&self, settings: &Settings) -> (Timestamp, Timestamp) {
        settings.window(self.run.accepted)
    }

    /// What it should do now.
    pub(super) fn goal(&self, now: Timestamp) -> Goal {
        if let Some(ending) = &self.ending {
            return Goal::End(ending.clone());
        }
        if let Some(refusal) = self.wanted.as_ref().and_then(|wanted| wanted.forbidden.as_ref()) {
            return Goal::End(forbidden(&self.run, refusal));
        }
        let Some(settings) = &self.run.settings else {
            return Goal::End(Ending::new(RunState::Refused, "NoSettings", "The request was refused."));
        };
        let (_, end) = self.window(settings);
        if settings.state == DesiredState::Stopped {
            Goal::End(Ending::new(RunState::Stopped, "StopRequested", "Stopped as asked."))
        } else if now >= end {
            Goal::End(Ending::new(
                RunState::Completed,
                "WindowOver",
                format!("The window is over. {}", self.what_was_seen()),
            ))
        } else if let Some(start) = settings.begins_later(now) {
            Goal::Wait(start)
        } else if settings.state == DesiredState::Paused {
            Goal::Pause
        } else {
            Goal::Capture
        }
    }

    /// When the clock alone changes the goal or the phase.
    pub(super) fn next_look(&self, now: Instant, utc: Timestamp) -> Instant {
        const AT_LEAST_EACH: Duration = Duration::from_secs(1);
        let mut next = now + AT_LEAST_EACH;
        if let Phase::Waiting { again } = self.phase {
            next = next.min(again.max(now));
        }
        if let Some(settings) = &self.run.settings {
            let (start, end) = self.window(settings);
            for edge in [start, end] {
                if let Ok(left) = Duration::try_from(edge.duration_since(utc))
                    && edge > utc
                {
                    next = next.min(now + left);
                }
            }
        }
        next
    }
}
