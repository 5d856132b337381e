//! The end of the agent: it leaves no tap that works and no file that is not whole.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use capture_api::RunState;
use tracing::{info, warn};

use super::{Engine, Event, TICK};
use crate::session::{Phase, SessionId};

/// How long files may take to be closed when the agent ends.
const CLOSE: Duration = Duration::from_millis(4500);

impl Engine {
    /// Stops all taps at once and has every file closed. Runs are not ended by this: the next agent continues them.
    pub(super) fn shut_down(mut self, events: &Receiver<Event>) {
        info!("stopping: taps are halted and files closed");
        let deadline = Instant::now() + CLOSE;
        for session in self.sessions.values() {
            session.controls().for_each(|control| control.set_halted(true));
        }
        // No tap is detached first: that takes 25 ms each, and the kernel does it when the agent is gone. Packets
        // under way when the taps were halted have long arrived after this.
        thread::sleep(Duration::from_millis(20));
        for session in self.sessions.values_mut() {
            match std::mem::replace(&mut session.phase, Phase::Between) {
                Phase::Tapped { tap, info } | Phase::Reloading { tap, info, .. } => {
                    session.retire(&mut self.node, &tap, &info);
                    // Dropped with the process: its descriptors are closed then, which detaches it.
                    session.phase = Phase::Draining;
                    self.node.leave_attached(tap);
                }
                // A tap that is loaded late finds nobody.
                Phase::Loading { .. } => session.phase = Phase::Draining,
                phase => session.phase = phase,
            }
        }
        let mut links = Vec::new();
        while self.sessions.values().any(|session| session.open_streams > 0) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                warn!(
                    "some files were not closed in time; they are cut to their last whole block at the next start"
                );
                break;
            };
            match events.recv_timeout(left.min(TICK)) {
                Ok(Event::Answer { session, ticket, answer }) => {
                    self.event(Event::Answer { session, ticket, answer }, &mut links);
                    self.retire_late(session);
                }
                Ok(event @ (Event::Storage { .. } | Event::Limit { .. })) => self.event(event, &mut links),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        // A run that ended just now has ended; all others are continued by the next agent.
        for session in self.sessions.values_mut() {
            match (session.is_over(), session.ending.clone()) {
                (false, Some(ending)) => session.phase = session.conclude(&ending),
                (false, None) => session.show(
                    RunState::Pending,
                    "AgentStopped",
                    "The agent was stopped. The capture goes on when it is started again.",
                ),
                (true, _) => {}
            }
            session.unsaved = true;
        }
        self.save_all(true, true);
    }

    /// A tap that a worker still had when the taps were halted.
    fn retire_late(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match std::mem::replace(&mut session.phase, Phase::Between) {
            Phase::Tapped { tap, info } => {
                info.control.set_halted(true);
                session.retire(&mut self.node, &tap, &info);
                session.phase = Phase::Draining;
                self.node.leave_attached(tap);
            }
            phase => session.phase = phase,
        }
    }
}
