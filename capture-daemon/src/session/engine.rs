//! The thread that owns all sessions: it hands events to them, has each look around when it is due, and once a second
//! reads, writes and tells what has become of them.

mod admission;
mod event;
mod publish;
mod refusals;
mod report;
mod retention;
mod shutdown;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use capture_api::RunState;
use jiff::Timestamp;
use thiserror::Error;
use tracing::warn;

pub use self::event::Event;
pub(super) use self::publish::Told;
use self::{refusals::TurnedAway, retention::Strays};
use super::{
    Session, SessionId,
    node::{Answer, Node},
    record::Records,
    run::{Run, Unreadable},
    wanted::{RequestEvent, RunKey, Wanted},
};
use crate::{
    pods::LinkEvent,
    pulse::Pulse,
    storage::{Left, StorageError},
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
    records: Box<dyn Records>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    last_id: SessionId,
    /// The sessions of each request on each pod; one after the other, of which the last goes on.
    by_key: BTreeMap<RunKey, Vec<SessionId>>,
    /// Refused runs without a session.
    turned_away: TurnedAway,
    /// Requests that the data directory has no room for yet, or does not take.
    homeless: BTreeMap<RunKey, Wanted>,
    strays: Strays,
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
                Ok(event) => {
                    if let Some(meanwhile) = self.node.workers.meanwhile() {
                        // What else the workers answer meanwhile is dealt with in one go.
                        thread::sleep(meanwhile);
                    }
                    // What is done now would disturb the attaching of other taps, and wait for it.
                    self.node.workers.pause(true);
                    self.event(event, &mut links);
                }
                Err(RecvTimeoutError::Timeout) => self.node.workers.pause(true),
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
            self.node.workers.pause(false);
        }
        self.node.workers.pause(false);
        // It gives up on files that are not closed in time.
        pulse.rest();
        self.shut_down(events);
    }

    fn event(&mut self, event: Event, links: &mut Vec<LinkEvent>) {
        match event {
            Event::Request(RequestEvent::Wanted(wanted)) => self.wanted(*wanted),
            Event::Request(RequestEvent::Gone(key)) => self.gone(&key),
            Event::Request(RequestEvent::Listed) => self.listed(),
            Event::Links => {
                let heard = self.node.link_news.take();
                links.extend(heard.events);
                if heard.more {
                    let now = Instant::now();
                    let links = self.node.finder.links();
                    self.sessions.values_mut().for_each(|session| session.links_missed(links, now));
                }
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
}
