//! One capture of one pod: its whole life.
//!
//! ```text
//!            request                 interface there, window open
//!  (new) ────────────▶ Waiting ────────────────────────────────────▶ Loading ──▶ Attaching ──▶ Tapped
//!                        ▲                                                                     │ │ ▲
//!                        │ interface gone: files closed, wait for it        settings changed ──┘ │ │
//!                        │                                              Reloading ▶ TakingOver ──┼─┘
//!                    Draining ◀──────────────── Detaching ◀──────────────────────────────────────┘
//!                        │                                 over, stopped, limit, interface gone
//!                        ▼
//!                      Over ── retention ends ──▶ files and record removed
//! ```
//!
//! A [`Session`] is one run. What it should do is its `Goal`, worked out anew from the request, the clock and the
//! limits at each step; what it does is its `Phase`. `Session::step` takes it from one phase towards the goal, and
//! each answer of a worker or of storage is one more transition. `run` is what is kept of it on disk.
//!
//! Who follows a capture opens, in this order:
//!
//! - `wanted`, what is asked for; `engine`, which calls sessions at each event, and its `admission`, which makes them;
//! - `goal` and `phase`, what one should do and what it does, and `step` below, which brings the two together;
//! - `interface`, how its pod's interface is found (`hunt` and `provisional`: before anybody knows whose it is);
//! - `node`, which has taps made and attached by `workers`, and `answers`, what becomes of the session then;
//! - `sink`, where packets go from the ring, and `files` and `progress`, what is known of them there;
//! - `change`, what a changed request does to it; `shown` and `record`, what users see; `ending`, how it ends;
//! - of `engine`: `report`, what of it is kept meanwhile, and `retention`, when it is forgotten.

mod answers;
mod budget;
mod bypass;
mod change;
mod ending;
mod engine;
mod files;
mod goal;
mod hunt;
mod interface;
mod node;
mod phase;
mod progress;
mod provisional;
mod record;
mod run;
mod shown;
mod sink;
mod tap_settings;
pub mod wanted;
mod workers;

use std::{sync::Arc, time::Instant};

use capture_api::RunState;
use jiff::Timestamp;

pub use self::{
    budget::RingBudget,
    engine::{Engine, EngineError, Event},
    node::{Limits, Node},
    provisional::Provisional,
    record::Records,
    run::Run,
    workers::Workers,
};
use self::{
    bypass::{Bypass, Comparison},
    change::Change,
    ending::{Ending, withdrawn},
    engine::Told,
    goal::Goal,
    phase::{Phase, TapInfo},
    progress::{Progress, UNLIMITED},
    wanted::Wanted,
};
use crate::{
    datapath::{Counters, Tap},
    storage::RunDir,
};

/// A session's number; never used twice by an agent.
pub type SessionId = u64;

/// One run, from request to finished record.
pub struct Session {
    /// Its number.
    pub id: SessionId,
    /// What is kept on disk.
    pub run: Run,
    dir: RunDir,
    /// The request as it stands; none when withdrawn, or not heard of since the agent started.
    wanted: Option<Wanted>,
    phase: Phase,
    /// Shared with the sinks.
    progress: Arc<Progress>,
    /// Why the run must end, once something outside the request said so.
    ending: Option<Ending>,
    /// The interface that is tapped went away: true until no tap is on it any more, however many follow each other.
    interface_lost: bool,
    /// What is said of the pod's place is not what the interface was found by.
    place_changed: bool,
    /// The pod has no interface yet, and it may come at any moment.
    hunting: bool,
    /// The pod's own counters, to find out what the tap cannot see.
    comparison: Option<Comparison>,
    /// What was found out.
    bypass: Bypass,
    /// Files of an earlier agent that are being mended, and their packets counted.
    mending: Vec<String>,
    /// Streams that storage has not finished with.
    open_streams: u32,
    /// What is asked for, and what of it cannot be had.
    change: Change,
    /// Numbers questions to workers, so that late answers are told from the awaited one.
    ticket: u64,
    /// Kernel counts of the tap in place, as last read.
    live: Counters,
    /// Something of `run` is not on disk yet.
    unsaved: bool,
    /// Counters have moved since `run` was written.
    moved: bool,
    /// Files were made, closed or deleted since.
    files_moved: bool,
    /// When to look at the session again, if nothing happens before.
    due: Instant,
    /// The data directory did not take it.
    unwritten: bool,
    /// What metrics know of it.
    told: Told,
    /// When its files could not be removed.
    removal_failed: Option<Instant>,
    /// It was refused, and makes room for others.
    dismissed: bool,
}

impl Session {
    /// A session of a run that is on disk. Runs that have ended stay so.
    fn new(id: SessionId, mut run: Run, dir: RunDir, wanted: Option<Wanted>, now: Instant) -> Self {
        if run.released && !run.state.is_final() {
            // The last agent was killed before it could end it. Nobody will speak of it again.
            withdrawn().tell(&mut run);
            run.ended = Some(Timestamp::now());
        } else if run.started.is_some() && !run.state.is_final() {
            // What the record says is no longer so, whether or not the last agent had time to say it.
            run.set(
                RunState::Pending,
                "AgentRestarted",
                "The agent was restarted. The capture goes on in a moment.",
            );
        }
        let phase = if run.state.is_final() { Phase::Over } else { Phase::Waiting { again: now } };
        let progress = Arc::new(Progress::continuing(run.delivered, run.files.bytes()));
        let mending = run.files.iter().filter(|file| !file.closed).map(|file| file.name.clone()).collect();
        let told = Told::before(&run);
        let change = Change::of(&run, wanted.as_ref());
        let session = Self {
            id,
            run,
            dir,
            wanted,
            phase,
            progress,
            ending: None,
            interface_lost: false,
            place_changed: false,
            hunting: false,
            comparison: None,
            bypass: Bypass::default(),
            mending,
            open_streams: 0,
            change,
            ticket: 0,
            live: Counters::default(),
            unsaved: true,
            unwritten: false,
            told,
            removal_failed: None,
            dismissed: false,
            moved: false,
            files_moved: false,
            due: now,
        };
        session.apply_limits();
        session
    }

    /// Whether the run has ended.
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    fn apply_limits(&self) {
        if let Some(settings) = &self.run.settings {
            self.progress.limit(settings.limits.packets.unwrap_or(UNLIMITED), settings.limits.bytes);
        }
    }

    /// What is kept of the run: what is counted now, too.
    fn kept(&self) -> Run {
        Run { counted: self.counted(), delivered: self.progress.delivered(), ..self.run.clone() }
    }

    /// Something happened: the session is to be looked at in this turn.
    fn look_soon(&mut self) {
        self.due = Instant::now();
    }

    /// Takes the session towards its goal, as far as it gets without waiting.
    fn step(&mut self, node: &mut Node, now: Instant) {
        let utc = Timestamp::now();
        let goal = self.goal(utc);
        if matches!(goal, Goal::End(_)) {
            // The last chance to ask: afterwards the pod may be gone.
            self.compare(&node.finder, true);
        }
        self.check_place(node);
        self.move_on(node, now, goal);
        self.due = self.next_look(now, utc);
    }

    fn move_on(&mut self, node: &mut Node, now: Instant, goal: Goal) {
        self.phase = match (std::mem::replace(&mut self.phase, Phase::Between), goal) {
            (Phase::Waiting { .. }, Goal::End(ending)) => self.conclude(&ending),
            (Phase::Waiting { .. }, Goal::Wait(start)) => {
                self.hunting = false;
                self.show(RunState::Scheduled, "Scheduled", &format!("Begins at {start}."));
                Phase::Waiting { again: now }
            }
            (Phase::Waiting { .. }, Goal::Pause) => {
                self.hunting = false;
                self.show(RunState::Paused, "PauseRequested", "Nothing is captured until state is Running.");
                Phase::Waiting { again: now }
            }
            (Phase::Waiting { again }, Goal::Capture) if now >= again => self.begin(node, now),

            // Not wanted any more before it was there: the late answer finds nobody and is thrown away.
            (Phase::Loading { .. }, Goal::End(ending)) => self.conclude(&ending),
            (Phase::Attaching { info }, Goal::End(_)) => {
                info.control.set_halted(true);
                Phase::Attaching { info }
            }

            (Phase::Tapped { tap, info }, Goal::End(_) | Goal::Wait(_)) => self.detach(node, tap, info),
            (Phase::Tapped { tap, info }, _) if self.interface_lost => self.detach(node, tap, info),
            (Phase::Tapped { tap, info }, goal) => {
                self.keep_capturing(node, now, tap, info, matches!(goal, Goal::Pause))
            }
            (Phase::Reloading { tap, info, .. }, Goal::End(_) | Goal::Wait(_)) => {
                self.detach(node, tap, info)
            }
            (Phase::Reloading { tap, info, .. }, _) if self.interface_lost => self.detach(node, tap, info),
            (Phase::Reloading { tap, info, settings }, Goal::Pause) => {
                info.control.set_halted(true);
                Phase::Reloading { tap, info, settings }
            }

            (Phase::Draining, goal) if self.open_streams == 0 => match goal {
                Goal::End(ending) => self.conclude(&ending),
                _ => Phase::Waiting { again: now },
            },
            (phase, _) => phase,
        };
    }

    /// Has the tap taken off its interface. Afterwards its ring is emptied and its files are closed.
    fn detach(&mut self, node: &Node, tap: Tap, info: TapInfo) -> Phase {
        let ticket = self.next_ticket();
        node.detach(self.id, ticket, tap);
        Phase::Detaching { info }
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// The kernel's counts of all taps of the run.
    fn counted(&self) -> Counters {
        let mut counted = self.run.counted;
        counted.add(&self.live);
        counted
    }
}
