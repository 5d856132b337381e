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

mod answers;
mod budget;
mod bypass;
mod change;
mod engine;
mod files;
mod hunt;
mod node;
mod progress;
mod provisional;
mod publish;
mod record;
mod refusals;
mod retention;
mod run;
mod sink;
mod tap_settings;
pub mod wanted;
mod workers;

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use capture_api::{DesiredState, Refusal, RunState, Settings};
use jiff::Timestamp;
use tracing::info;

use self::{
    answers::storage_failed,
    bypass::{Bypass, Comparison},
    change::{Change, NO_RINGS},
    progress::{Progress, UNLIMITED},
    publish::Told,
    sink::Limit,
    wanted::Wanted,
};
pub use self::{
    budget::RingBudget,
    engine::{Engine, EngineError, Event},
    node::{Limits, Node},
    provisional::Provisional,
    record::Records,
    run::Run,
    workers::Workers,
};
use crate::{
    datapath::{AttachMode, Control, Counters, Tap},
    pods::{HostInterface, LinkEvent, ResolveError},
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

/// What a session has of a tap that it or a worker holds.
struct TapInfo {
    /// Its number with the consumer.
    id: u64,
    control: Control,
    interface: HostInterface,
    /// Bytes of its ring, to be given back.
    ring: u32,
    /// The settings that it was made from.
    settings: Settings,
    mode: AttachMode,
}

/// What a session is doing.
enum Phase {
    /// Nothing yet; looks again at this time, or when a link appears.
    Waiting { again: Instant },
    /// A worker compiles the filter and loads the first tap.
    Loading { interface: HostInterface, settings: Settings, mode: AttachMode },
    /// A worker attaches the tap.
    Attaching { info: TapInfo },
    /// Packets arrive.
    Tapped { tap: Tap, info: TapInfo },
    /// Packets arrive; a worker loads a tap with other settings.
    Reloading { tap: Tap, info: TapInfo, settings: Settings },
    /// Packets arrive; a worker puts the new tap into the old one's place.
    TakingOver { old: TapInfo, new: TapInfo },
    /// A worker detaches the tap.
    Detaching { info: TapInfo },
    /// The consumer empties the ring, and writers close the files.
    Draining,
    /// The run has ended.
    Over,
    /// Only while a transition is worked out.
    Between,
}

/// What a session should do now.
enum Goal {
    /// Wait for the window to open.
    Wait(Timestamp),
    Capture,
    Pause,
    End(Ending),
}

/// How a run ends.
#[derive(Clone, Debug)]
struct Ending {
    state: RunState,
    reason: Cow<'static, str>,
    message: String,
}

impl Ending {
    fn new(state: RunState, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { state, reason: reason.into(), message: message.into() }
    }
}

/// How a run ends that may not go on.
fn forbidden(run: &Run, refusal: &Refusal) -> Ending {
    let (state, kept) = match run.started {
        Some(_) => (RunState::Stopped, " Files are kept until retention ends."),
        None => (RunState::Refused, ""),
    };
    Ending::new(state, refusal.reason.clone(), format!("{}{kept}", refusal.message))
}

/// How a run ends whose request was withdrawn.
fn withdrawn() -> Ending {
    Ending::new(
        RunState::Stopped,
        "RequestRemoved",
        "The label, the PacketCapture or the pod is gone. Files are kept until retention ends.",
    )
}

impl Session {
    /// A session of a run that is on disk. Runs that have ended stay so.
    fn new(id: SessionId, mut run: Run, dir: RunDir, wanted: Option<Wanted>, now: Instant) -> Self {
        if run.released && !run.state.is_final() {
            // The last agent was killed before it could end it. Nobody will speak of it again.
            let Ending { state, reason, message } = withdrawn();
            run.set(state, &reason, message);
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

    /// When the window opens and closes.
    fn window(&self, settings: &Settings) -> (Timestamp, Timestamp) {
        settings.window(self.run.accepted)
    }

    fn apply_limits(&self) {
        if let Some(settings) = &self.run.settings {
            self.progress.limit(settings.limits.packets.unwrap_or(UNLIMITED), settings.limits.bytes);
        }
    }

    /// Whether a run that was refused begins with this request.
    fn would_begin(&self, wanted: &Wanted) -> bool {
        let run = &self.run;
        run.state == RunState::Refused
            && wanted.forbidden.is_none()
            && wanted
                .settings
                .as_ref()
                .is_ok_and(|settings| run.forbidden || run.settings.as_ref() != Some(settings))
    }

    /// Nothing may be captured there now: what runs ends for good, what has not begun waits to be allowed. None lifts
    /// it from a run that has not ended.
    fn forbid(&mut self, refusal: Option<&Refusal>) {
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
    fn withdraw(&mut self) {
        self.wanted = None;
        self.run.released = true;
        self.end(withdrawn());
        self.unsaved = true;
    }

    fn end(&mut self, ending: Ending) {
        self.look_soon();
        self.ending.get_or_insert(ending);
    }

    fn limit_reached(&mut self, limit: Limit) {
        let (reason, message) = match limit {
            Limit::Packets => ("PacketLimit", "The capture has as many packets as it may have."),
            Limit::Bytes => ("ByteLimit", "The capture's files are as large as they may get."),
        };
        self.end(Ending::new(RunState::Completed, reason, message));
    }

    /// Something to be said of the run, whatever is asked for.
    fn note(&mut self, note: String) {
        if !self.run.remarks.contains(&note) {
            self.run.remarks.push(note);
            self.unsaved = true;
        }
    }

    fn goal(&self, now: Timestamp) -> Goal {
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

    /// What is kept of the run: what is counted now, too.
    fn kept(&self) -> Run {
        Run { counted: self.counted(), ..self.run.clone() }
    }

    /// Something happened: the session is to be looked at in this turn.
    fn look_soon(&mut self) {
        self.due = Instant::now();
    }

    /// When the clock alone changes the goal or the phase.
    fn next_look(&self, now: Instant, utc: Timestamp) -> Instant {
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

    /// Finds the pod's interface and has a tap loaded for it.
    fn begin(&mut self, node: &mut Node, now: Instant) -> Phase {
        let later = Phase::Waiting { again: now + node.limits.retry };
        self.place_changed = false;
        let hunted = std::mem::take(&mut self.hunting);
        let (Some(wanted), Some(settings)) = (&self.wanted, self.target()) else {
            // An unfinished run of an earlier agent, whose request has not been heard of yet.
            return later;
        };
        self.run.settings = Some(settings.clone());
        if !self.mending.is_empty() && settings.limits.packets.is_some() {
            // How many packets it may still have is known when those in its files are counted.
            return Phase::Waiting { again: now };
        }
        if let Err(reason) = node.storage.room_in(&self.dir) {
            return self.conclude(&storage_failed(&reason));
        }
        let interface = match wanted.pod.place.as_ref().map(|place| node.finder.resolve(place)) {
            Some(Ok(interface)) => interface,
            Some(Err(error @ ResolveError::Forbidden(_))) => {
                return self.refuse(&Refusal::new("InterfaceNotAPods", error.to_string()));
            }
            Some(Err(error)) => {
                self.show(RunState::Pending, "InterfaceMissing", &error.to_string());
                self.hunting = self.can_hunt();
                return later;
            }
            None => return later,
        };
        if let Some(tapped) = self.adopt(node, &interface, &settings) {
            return tapped;
        }
        if hunted {
            self.note(hunt::MISSING.into());
        }
        let Some(ring) = node.grant_ring() else {
            if self.run.started.is_some() {
                self.show(
                    RunState::Pending,
                    "BudgetExhausted",
                    &format!("{NO_RINGS} The capture goes on when there is room."),
                );
                return later;
            }
            let advice = "End some of them, or have memoryBudget raised, then ask again.";
            return self.refuse(&Refusal::new("BudgetExhausted", format!("{NO_RINGS} {advice}")));
        };
        let ticket = self.next_ticket();
        let mode = node.mode_for_new(now);
        node.load(self.id, ticket, &self.run, &settings, ring, mode, false);
        Phase::Loading { interface, settings, mode }
    }

    /// Has the tap taken off its interface. Afterwards its ring is emptied and its files are closed.
    fn detach(&mut self, node: &Node, tap: Tap, info: TapInfo) -> Phase {
        let ticket = self.next_ticket();
        node.detach(self.id, ticket, tap);
        Phase::Detaching { info }
    }

    fn refuse(&mut self, refusal: &Refusal) -> Phase {
        self.run.refuse(RunState::Refused, refusal);
        self.finish()
    }

    fn conclude(&mut self, ending: &Ending) -> Phase {
        if ending.state != RunState::Refused || self.run.state != RunState::Refused {
            self.run.set(ending.state, &ending.reason, ending.message.clone());
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

    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// Sets what the record shows, when it is something else.
    fn show(&mut self, state: RunState, reason: &str, message: &str) {
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

    fn show_capturing(&mut self) {
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
    fn what_was_seen(&self) -> String {
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

    /// The kernel's counts of all taps of the run.
    fn counted(&self) -> Counters {
        let mut counted = self.run.counted;
        counted.add(&self.live);
        counted
    }

    /// News of a link.
    fn link(&mut self, event: &LinkEvent, now: Instant) {
        match &mut self.phase {
            Phase::Waiting { again } if self.run.state == RunState::Pending => {
                (*again, self.due) = (now, now)
            }
            Phase::Attaching { info }
            | Phase::Tapped { info, .. }
            | Phase::Reloading { info, .. }
            | Phase::TakingOver { old: info, .. } => {
                let tapped = &info.interface.link;
                self.interface_lost |= match event {
                    LinkEvent::Removed { index } => *index == tapped.index,
                    // Another link under the same index, or the pair now leads elsewhere.
                    LinkEvent::Changed(link) => link.index == tapped.index && link.peer != tapped.peer,
                };
                if self.interface_lost {
                    self.due = now;
                }
            }
            _ => {}
        }
    }

    /// The tap in place, for reading its counters and for halting it.
    fn tap(&self) -> Option<(&Tap, &TapInfo)> {
        match &self.phase {
            Phase::Tapped { tap, info } | Phase::Reloading { tap, info, .. } => Some((tap, info)),
            _ => None,
        }
    }

    /// The control words of every tap that may be attached.
    fn controls(&self) -> impl Iterator<Item = &Control> {
        let (one, other) = match &self.phase {
            Phase::Attaching { info } | Phase::Tapped { info, .. } | Phase::Reloading { info, .. } => {
                (Some(info), None)
            }
            Phase::TakingOver { old, new } => (Some(old), Some(new)),
            _ => (None, None),
        };
        one.into_iter().chain(other).map(|info| &info.control)
    }
}
