//! The thread that owns all sessions: hands events to them, keeps `run.json` and records up to date, and forgets runs
//! whose retention is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use capture_api::{Refusal, RunState};
use jiff::Timestamp;
use thiserror::Error;
use tracing::{error, info, warn};

use super::{
    Limit, Phase, Session, SessionId,
    node::{Answer, LoadFailure, Node},
    record::{Records, record},
    refusals::TurnedAway,
    retention::Strays,
    run::{HOUR, Run, Unreadable},
    wanted::{Allowance, RequestEvent, RunKey, Wanted},
};
use crate::{
    datapath::Tap,
    pods::LinkEvent,
    pulse::Pulse,
    storage::{Left, Recovered, RunDir, StorageError, StorageEvent},
};

/// How often windows, retention and the like are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often counters are read and records written.
const REPORT: Duration = Duration::from_secs(1);
/// How often `run.json` is written while nothing but counters change.
const SAVE: Duration = Duration::from_secs(10);
/// So many files that are to be mended are held open until then, more than runs have streams. What was in one that is
/// deleted before is not known otherwise.
const HELD: usize = 1000;
/// How long files may take to be closed when the agent ends.
const CLOSE: Duration = Duration::from_millis(4500);

/// What the engine is told.
pub enum Event {
    /// By requests.
    Request(RequestEvent),
    /// By the kernel, of a link.
    Link(LinkEvent),
    /// Of where pods are: a CNI has written or removed a result.
    Places,
    /// By a worker: a tap that was loaded ahead is running, or why not.
    Ahead {
        /// What it was loaded for.
        kind: u64,
        /// Bytes of its ring.
        ring: u32,
        /// The tap.
        tap: Box<Result<Tap, LoadFailure>>,
    },
    /// By a worker.
    Answer {
        /// Which session asked.
        session: SessionId,
        /// Which of its questions.
        ticket: u64,
        /// The answer.
        answer: Box<Answer>,
    },
    /// By the consumer: a limit is reached.
    Limit {
        /// Whose.
        session: SessionId,
        /// Which.
        limit: Limit,
    },
    /// By storage.
    Storage {
        /// Whose file.
        session: SessionId,
        /// What happened.
        news: StorageEvent,
    },
    /// Files that an earlier agent left open are whole again, or why not.
    Mended {
        /// Whose files.
        session: SessionId,
        /// Each by its name, with what became of it.
        files: Vec<(String, Result<Recovered, StorageError>)>,
    },
    /// The agent is to end: stop all taps, close all files.
    Shutdown,
}

/// Why the engine cannot go on.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The data directory cannot be read at the start.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The thread that mends files cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// All sessions of the node.
pub struct Engine {
    pub(super) node: Node,
    pub(super) records: Box<dyn Records>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    last_id: SessionId,
    /// The sessions of each request on each pod; one after the other, of which the last goes on.
    pub(super) by_key: BTreeMap<RunKey, Vec<SessionId>>,
    /// Refused runs without a session.
    pub(super) turned_away: TurnedAway,
    /// Requests that the data directory has no room for yet, or does not take.
    pub(super) homeless: BTreeMap<RunKey, Wanted>,
    pub(super) strays: Strays,
    reported: Instant,
    saved: Instant,
}

impl Engine {
    /// Makes a session of each run that earlier agents left. Files that were open when an agent died are cut back to
    /// their last whole block by a thread of its own: they may be large, and new files need not wait for them.
    ///
    /// # Errors
    /// When the data directory cannot be listed. A single run that cannot be read is logged and left alone.
    pub fn new(node: Node, records: Box<dyn Records>) -> Result<Self, EngineError> {
        let now = Instant::now();
        let mut engine = Self {
            node,
            records,
            sessions: BTreeMap::new(),
            last_id: 0,
            by_key: BTreeMap::new(),
            turned_away: TurnedAway::new(),
            homeless: BTreeMap::new(),
            strays: Strays::default(),
            reported: now,
            saved: now,
        };
        let (mut broken, mut held) = (Vec::new(), 0);
        for dir in engine.node.storage.runs()? {
            match Run::left_in(&dir) {
                Ok(run) => {
                    let id = engine.insert(run, dir.clone(), None);
                    let open = engine.sessions.get(&id).map_or(&[][..], |session| &session.mending);
                    // Before anything can be deleted, so that its packets count all the same.
                    let hold = |name: &String| {
                        let left = if held < HELD { dir.left(name).ok().flatten() } else { None };
                        held += usize::from(left.is_some());
                        (name.clone(), left)
                    };
                    let files: Vec<(String, Option<Left>)> = open.iter().map(hold).collect();
                    if !files.is_empty() {
                        broken.push((id, dir, files));
                    }
                }
                Err(Unreadable::Damaged(error)) => {
                    warn!(directory = %dir.path().display(), error, "kept for a day: its run cannot be read");
                    engine.strays.add(dir);
                }
                Err(Unreadable::Other(error)) => {
                    warn!(directory = %dir.path().display(), error, "left alone: not a run that can be read");
                }
            }
        }
        engine.node.storage.strays()?.into_iter().for_each(|dir| engine.strays.add(dir));
        let answers = engine.node.answers.clone();
        thread::Builder::new()
            .name("recovery".into())
            .spawn(move || {
                for (session, dir, files) in broken {
                    let mend = |(name, left): (String, Option<Left>)| {
                        let recovered = left.map_or_else(|| dir.recover(&name), Left::recover);
                        (name, recovered)
                    };
                    let files = files.into_iter().map(mend).collect();
                    let _ = answers.send(Event::Mended { session, files });
                }
            })
            .map_err(EngineError::Thread)?;
        engine.save_all(false, false);
        let runs: BTreeSet<(&str, &str)> = engine
            .sessions
            .values()
            .filter(|session| !session.run.expired)
            .map(|session| (session.run.namespace.as_str(), session.run.record.as_str()))
            .collect();
        engine.records.sweep(&|namespace, record| {
            runs.contains(&(namespace, record)) || engine.strays.contains(namespace, record)
        });
        Ok(engine)
    }

    /// What is wanted is accepted when it is first seen, and an agent's restart does not make windows longer.
    #[must_use]
    pub fn accepted<T: FromIterator<(RunKey, Timestamp)>>(&self) -> T {
        // One that was refused has not been accepted.
        let standing = self
            .sessions
            .values()
            .filter(|session| !session.run.released && session.run.state != RunState::Refused);
        standing.map(|session| (session.run.key(), session.run.accepted)).collect()
    }

    /// Runs until it is told to shut down, then closes all files.
    pub fn run(mut self, events: &Receiver<Event>) {
        let pulse = Pulse::new("engine");
        self.node.telemetry.watch(pulse.clone());
        loop {
            pulse.beat();
            let mut links = Vec::new();
            match events.recv_timeout(TICK) {
                Ok(Event::Shutdown) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(event) => self.event(event, &mut links),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let mut shutdown = false;
            // What else has come meanwhile is worked off before the sessions look around: a burst of link events
            // makes them look once.
            for event in events.try_iter().take(1024) {
                match event {
                    Event::Shutdown => shutdown = true,
                    event => self.event(event, &mut links),
                }
            }
            if shutdown {
                break;
            }
            let now = Instant::now();
            for session in self.sessions.values_mut() {
                for event in &links {
                    session.link(event, now);
                }
            }
            self.turn(now);
        }
        // It gives up on files that are not closed in time.
        pulse.rest();
        self.shut_down(events);
    }

    fn event(&mut self, event: Event, links: &mut Vec<LinkEvent>) {
        match event {
            Event::Request(RequestEvent::Wanted(wanted)) => self.wanted(*wanted),
            Event::Request(RequestEvent::Gone(key)) => self.gone(&key),
            Event::Request(RequestEvent::Listed) => self.listed(),
            Event::Link(event) => {
                self.node.telemetry.meters().link(&event);
                links.push(event);
            }
            Event::Answer { session, ticket, answer } => match self.sessions.get_mut(&session) {
                Some(session) => {
                    session.answer(&mut self.node, ticket, *answer);
                    session.look_soon();
                }
                None => {
                    if let Answer::Loaded { ring, .. } = *answer {
                        self.node.rings.release(ring);
                    }
                }
            },
            Event::Places => {
                let now = Instant::now();
                self.sessions.values_mut().for_each(|session| session.place_news(now));
            }
            Event::Ahead { kind, ring, tap } => self.loaded_ahead(kind, ring, *tap),
            Event::Limit { session, limit } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.limit_reached(limit);
                    session.look_soon();
                }
            }
            Event::Storage { session, news } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.storage(news);
                    session.look_soon();
                }
            }
            Event::Mended { session, files } => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.mended(files);
                    session.look_soon();
                }
            }
            Event::Shutdown => {}
        }
    }

    /// One look at everything.
    fn turn(&mut self, now: Instant) {
        for session in self.sessions.values_mut() {
            if now >= session.due {
                session.step(&mut self.node, now);
            }
        }
        self.hunt();
        let report = now.duration_since(self.reported) >= REPORT;
        if report {
            self.reported = now;
            self.report();
            self.publish();
            self.dismiss_refused();
            self.expire();
            for wanted in self.homeless.values().cloned().collect::<Vec<_>>() {
                self.wanted(wanted);
            }
        }
        let save_counters = now.duration_since(self.saved) >= SAVE;
        if save_counters {
            self.saved = now;
        }
        self.save_all(save_counters, report);
    }

    fn wanted(&mut self, mut wanted: Wanted) {
        let now = Instant::now();
        let known = self.of_wanted(&wanted).map(|session| (session.id, session.would_begin(&wanted)));
        if let Some((_, true)) = known
            && let Err(refusal) = self.room_for(&wanted)
        {
            wanted.settings = Err(refusal);
        }
        if let Some(session) = known.and_then(|(id, _)| self.sessions.get_mut(&id)) {
            return session.request(wanted, now);
        }
        let refusal = wanted.forbidden.clone().or_else(|| wanted.settings.as_ref().err().cloned());
        let verdict = refusal.map_or_else(|| self.room_for(&wanted), Err);
        if let Err(refusal) = &verdict
            && !self.keeps_refused(&wanted)
        {
            self.homeless.remove(&wanted.key);
            return self.turn_away(&wanted, refusal);
        }
        let mut number =
            self.sessions_of(&wanted.key).map(|session| session.run.number + 1).max().unwrap_or(0);
        let (mut run, dir) = loop {
            let run = Run::new(&wanted, number, &self.node.name);
            match self.node.storage.new_run(&run.namespace, &run.record) {
                Ok(Some(dir)) => break (run, dir),
                // What is there stays as it is: a run that this agent cannot read, perhaps.
                Ok(None) => number += 1,
                Err(error) => {
                    // Without a directory there is no record that could tell of it. Said once.
                    let (pod, namespace) = (wanted.pod.name.clone(), wanted.pod.namespace.clone());
                    if self.homeless.insert(wanted.key.clone(), wanted).is_none() {
                        error!(pod, namespace, %error, "cannot make a directory for a capture; trying on");
                    }
                    return;
                }
            }
        };
        self.strays.take(&dir);
        self.homeless.remove(&wanted.key);
        self.turned_away.remove(&wanted.key);
        run.forbidden = wanted.forbidden.is_some();
        match verdict {
            Ok(()) => run.count(wanted.allowance, Timestamp::now()),
            Err(refusal) => self.refused(&mut run, &refusal),
        }
        self.insert(run, dir, Some(wanted));
    }

    /// Whether the namespace may have one run more.
    fn room_for(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let (namespace, Allowance { at_once, per_hour }) = (&wanted.key.namespace, wanted.allowance);
        let uid = &wanted.pod.namespace_uid;
        let own = |run: &Run| run.namespace == *namespace && run.namespace_uid == *uid;
        let runs = || self.sessions.values().filter(|session| own(&session.run));
        let running = runs().filter(|session| !session.is_over()).count();
        if running >= at_once as usize {
            return Err(Refusal::new(
                "TooManyCaptures",
                format!(
                    "Namespace {namespace} already has {running} captures on this node, and {at_once} are allowed at \
                     once. End one, then ask again."
                ),
            ));
        }
        let now = Timestamp::now();
        let within = |begun: Timestamp| now.duration_since(begun) < HOUR;
        let lately = runs().filter(|session| session.run.begun.is_some_and(within)).count();
        match per_hour {
            Some(most) if lately >= most as usize => Err(Refusal::new(
                "TooManyCapturesPerHour",
                format!(
                    "Namespace {namespace} has begun {lately} captures on this node within an hour, and {most} are \
                     allowed. Ask again later."
                ),
            )),
            _ => Ok(()),
        }
    }

    fn refused(&self, run: &mut Run, refusal: &Refusal) {
        run.refuse(RunState::Refused, refusal);
        run.ended = Some(Timestamp::now());
        warn!(
            record = run.record,
            namespace = run.namespace,
            reason = refusal.reason,
            "refused: {}",
            refusal.message
        );
    }

    fn insert(&mut self, run: Run, dir: RunDir, wanted: Option<Wanted>) -> SessionId {
        // What a namespace that is gone has left is not its successor's of the same name.
        if let Err(error) = dir.charge(&format!("{}/{}", run.namespace, run.namespace_uid)) {
            warn!(record = run.record, %error, "not counted for its namespace's quota");
        }
        self.last_id += 1;
        self.by_key.entry(run.key()).or_default().push(self.last_id);
        let session = Session::new(self.last_id, run, dir, wanted, Instant::now());
        self.sessions.insert(self.last_id, session);
        self.last_id
    }

    /// The run of that request that is not yet withdrawn.
    fn of_wanted(&self, wanted: &Wanted) -> Option<&Session> {
        // A namespace that was made again continues nothing of its predecessor's.
        self.sessions_of(&wanted.key)
            .find(|session| !session.run.released && session.run.namespace_uid == wanted.pod.namespace_uid)
    }

    /// The runs of that request on that pod, the oldest first.
    fn sessions_of(&self, key: &RunKey) -> impl Iterator<Item = &Session> {
        self.by_key.get(key).into_iter().flatten().filter_map(|id| self.sessions.get(id))
    }

    fn gone(&mut self, key: &RunKey) {
        self.homeless.remove(key);
        self.turned_away.remove(key);
        let known = self.sessions_of(key).find(|session| session.wanted.is_some()).map(|session| session.id);
        if let Some(session) = known.and_then(|id| self.sessions.get_mut(&id)) {
            session.withdraw();
        }
    }

    /// Everything that is wanted has been named: runs of earlier agents that were not are over.
    fn listed(&mut self) {
        self.node.telemetry.listed();
        for session in self.sessions.values_mut() {
            if session.wanted.is_none() && !session.run.released {
                session.withdraw();
            }
        }
    }

    /// Reads counters, lets files tell of loss, writes the records of sessions whose counters moved.
    fn report(&mut self) {
        for session in self.sessions.values_mut() {
            let before = session.counted();
            let Some((tap, info)) = session.tap() else { continue };
            let now = match tap.counters() {
                Ok(now) => now,
                Err(error) => {
                    warn!(record = session.run.record, %error, "cannot read a tap's counters");
                    continue;
                }
            };
            let delivered = session.progress.delivered();
            let told = now != session.live || session.run.delivered != delivered;
            // Files end with what was last told here, and tell of loss. Where nothing moved there is no news, and each
            // telling wakes the consumer.
            if told {
                self.node.consumer.statistics(info.id, now);
            }
            session.live = now;
            session.compare(&self.node.finder, false);
            if told || before != session.counted() {
                session.run.delivered = delivered;
                session.moved = true;
                // A change of state that could not be shown is tried again; counters will be with the next ones.
                let _ = self.records.publish(&record(session));
            }
        }
    }

    /// Writes what changed to `run.json` and to the records; with `counters`, also runs of which only counters moved;
    /// with `again`, also what could not be written before, and runs of which only files are new: these may be many a
    /// second.
    fn save_all(&mut self, counters: bool, again: bool) {
        for session in self.sessions.values_mut() {
            let news = std::mem::take(&mut session.unsaved) || again && session.files_moved;
            let changed = news || again && session.unwritten;
            if !(changed || counters && session.moved) {
                continue;
            }
            (session.moved, session.files_moved) = (false, false);
            session.run.delivered = session.progress.delivered();
            let kept = serde_json::to_vec_pretty(&session.kept())
                .map_err(|error| error.to_string())
                .and_then(|json| session.dir.write_json(&json).map_err(|error| error.to_string()));
            if let (Err(error), false) = (&kept, session.unwritten) {
                // The files themselves are not harmed. Said once: it is tried until it succeeds.
                warn!(record = session.run.record, error, "cannot write run.json; trying on");
            }
            let show = news || changed && kept.is_ok();
            let shown = !show || session.run.expired || self.records.publish(&record(session));
            session.unwritten = kept.is_err() || !shown;
        }
    }

    /// Stops all taps at once and has every file closed. Runs are not ended by this: the next agent continues them.
    fn shut_down(mut self, events: &Receiver<Event>) {
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
