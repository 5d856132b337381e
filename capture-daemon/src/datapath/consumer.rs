//! The one thread that empties all rings.
//!
//! It sleeps until a ring has filled to its wake-up threshold, or for 100 ms, then takes from each ring in turn what is
//! there, at most a quantum at a time, so that a flood in one ring delays the others by no more than that. It does not
//! chase what arrives while it reads: the next wake-up brings it, in a larger piece.

use std::{
    collections::HashMap,
    fmt,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, Timespec, epoll, eventfd},
    process::setpriority_process,
    thread::gettid,
};
use tracing::warn;

use super::{
    Counters, DatapathError, Ring,
    ring::{Progress, Verdict},
};
use crate::{delays::Delays, pulse::Pulse};

/// Longest sleep: packets of a quiet tap are this old at most when they reach their sink.
const PERIOD: Duration = Duration::from_millis(100);
/// Sleep while a sink is busy: a ring of 4 MiB takes some 4 ms to fill at the worst.
const BUSY_PERIOD: Duration = Duration::from_millis(2);

/// What wakes the thread while a ring is read. Edge-triggered: the event only says that there is something, and is not to
/// be repeated while it is read.
const WATCHED: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ET);

/// The thread's nice value.
const PRIORITY: i32 = -10;

/// Where the blocks of one ring go. Runs in the consumer's thread, so it must never wait for anything.
pub trait BlockSink: Send {
    /// One whole pcapng block, as the kernel wrote it.
    fn block(&mut self, block: &[u8]) -> Take;
    /// Comes after every sweep, and at least each 100 ms.
    fn tick(&mut self, now: Instant);
    /// Write an interface statistics block now.
    fn statistics(&mut self, counters: &Counters);
    /// The ring is drained: the last call.
    fn finish(self: Box<Self>, counters: &Counters);
}

/// What a sink did with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It has it.
    Taken,
    /// Leave it in the ring and ask again later.
    Busy,
    /// It has it or not, and wants nothing more: discard from now on.
    Done,
}

enum Command {
    Add(u64, Box<Ring>, Box<dyn BlockSink>),
    Statistics(u64, Counters),
    Remove(u64, Counters),
    Stop,
}

/// The thread. Dropping this ends it; what is still in the rings is lost, so remove taps first.
pub struct Consumer {
    commands: mpsc::Sender<Command>,
    wake: Arc<OwnedFd>,
    pulse: Pulse,
    refusals: Delays,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Consumer").finish_non_exhaustive()
    }
}

impl Consumer {
    /// Starts the thread. `quantum_bytes` is how much of one ring is read before the next one's turn.
    pub fn start(quantum_bytes: usize) -> Result<Self, DatapathError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(DatapathError::errno("make an eventfd"))?;
        let wake = Arc::new(wake);
        let (commands, received) = mpsc::channel();
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).map_err(DatapathError::errno("make an epoll"))?;
        epoll::add(&epoll, &*wake, epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .map_err(DatapathError::errno("watch an eventfd"))?;
        let pulse = Pulse::new("consumer");
        let refusals = Delays::default();
        let mut worker = Worker {
            pulse: pulse.clone(),
            refusals: refusals.clone(),
            refused_since: None,
            epoll,
            wake: Arc::clone(&wake),
            commands: received,
            quantum: quantum_bytes as u64,
            entries: Vec::new(),
            by_id: HashMap::new(),
        };
        let thread = thread::Builder::new()
            .name("consumer".into())
            .spawn(move || {
                // A full-rate flood fills a ring in a few milliseconds, and others' work must not make it wait longer
                // than that. Without the right to it (CAP_SYS_NICE) it is as patient as anybody.
                if setpriority_process(Some(gettid()), PRIORITY).is_err() {
                    warn!(
                        "no right to go before others (CAP_SYS_NICE): on a busy node packets are lost sooner"
                    );
                }
                worker.run();
            })
            .map_err(|source| DatapathError::Syscall { call: "start the consumer thread", source })?;
        Ok(Self { commands, wake, pulse, refusals, thread: Some(thread) })
    }

    /// The thread's sign of life: one each sweep, so at least each 100 ms.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// How long, each time, there was a ring that could not be emptied since its sink was busy.
    #[must_use]
    pub fn refusals(&self) -> Delays {
        self.refusals.clone()
    }

    /// Reads `ring` into `sink` from now on. `id` is the caller's, and new.
    pub fn add(&self, id: u64, ring: Ring, sink: Box<dyn BlockSink>) {
        self.send(Command::Add(id, Box::new(ring), sink));
    }

    /// Has the sink write statistics, behind what it has got so far.
    pub fn statistics(&self, id: u64, counters: Counters) {
        self.send(Command::Statistics(id, counters));
    }

    /// Hands the sink what is in the ring now, then lets it finish with the tap's last counters. Returns at once.
    pub fn remove(&self, id: u64, last: Counters) {
        self.send(Command::Remove(id, last));
    }

    fn send(&self, command: Command) {
        // Both fail only when the thread has ended, which only dropping this does.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What becomes of a ring's blocks.
enum State {
    /// They go to the sink.
    Reading,
    /// The sink wants none: they are dropped.
    Discarding,
}

struct Entry {
    id: u64,
    ring: Box<Ring>,
    sink: Box<dyn BlockSink>,
    state: State,
    /// Set when the tap is being removed: what was in the ring by then, and its last counters.
    last: Option<(u64, Counters)>,
    /// The sink refused the next block.
    busy: bool,
    /// What comes into the ring wakes the thread.
    watched: bool,
    /// Read up to here in this sweep.
    until: u64,
}

struct Worker {
    pulse: Pulse,
    refusals: Delays,
    /// Since when there has been a busy sink.
    refused_since: Option<Instant>,
    epoll: OwnedFd,
    wake: Arc<OwnedFd>,
    commands: mpsc::Receiver<Command>,
    quantum: u64,
    entries: Vec<Entry>,
    /// Places in `entries`.
    by_id: HashMap<u64, usize>,
}

impl Worker {
    fn run(&mut self) {
        while self.obey() {
            self.sweep();
            self.wait();
        }
        self.pulse.rest();
    }

    /// Carries out what was asked; false to end.
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Add(id, ring, sink)) => self.add(id, ring, sink),
                Ok(Command::Statistics(id, counters)) => {
                    if let Some(&place) = self.by_id.get(&id) {
                        self.entries[place].sink.statistics(&counters);
                    }
                }
                Ok(Command::Remove(id, counters)) => {
                    if let Some(&place) = self.by_id.get(&id) {
                        let entry = &mut self.entries[place];
                        entry.last = Some((entry.ring.produced(), counters));
                    }
                }
                Ok(Command::Stop) | Err(mpsc::TryRecvError::Disconnected) => return false,
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn add(&mut self, id: u64, ring: Box<Ring>, sink: Box<dyn BlockSink>) {
        if let Err(error) = epoll::add(&self.epoll, ring.as_fd(), epoll::EventData::new_u64(1), WATCHED) {
            // The ring is still read each 100 ms.
            tracing::warn!(%error, id, "cannot watch a ring");
        }
        self.by_id.insert(id, self.entries.len());
        let until = ring.position();
        let state = State::Reading;
        self.entries.push(Entry { id, ring, sink, state, last: None, busy: false, watched: true, until });
    }

    /// Takes what all rings hold at its beginning, in turns.
    fn sweep(&mut self) {
        for entry in &mut self.entries {
            entry.until = entry.ring.produced();
        }
        let mut unread = true;
        while unread {
            unread = false;
            for entry in &mut self.entries {
                unread |= entry.read(self.quantum) == Progress::More;
            }
        }
        let now = Instant::now();
        self.pulse.beat_at(now);
        match (self.entries.iter().any(|entry| entry.busy), self.refused_since) {
            (true, None) => self.refused_since = Some(now),
            (false, Some(since)) => {
                self.refusals.add(now - since);
                self.refused_since = None;
            }
            _ => {}
        }
        for entry in &mut self.entries {
            entry.sink.tick(now);
            entry.watch(&self.epoll);
        }
        self.finish_drained();
    }

    fn finish_drained(&mut self) {
        let drained = |entry: &Entry| entry.last.is_some_and(|(end, _)| entry.ring.position() >= end);
        while let Some(place) = self.entries.iter().position(drained) {
            let entry = self.entries.swap_remove(place);
            self.by_id.remove(&entry.id);
            if let Some(moved) = self.entries.get(place) {
                self.by_id.insert(moved.id, place);
            }
            let _ = epoll::delete(&self.epoll, entry.ring.as_fd());
            if entry.ring.corrupt() != 0 {
                tracing::error!(
                    id = entry.id,
                    records = entry.ring.corrupt(),
                    "a ring held records that are no blocks"
                );
            }
            if let Some((_, counters)) = entry.last {
                entry.sink.finish(&counters);
            }
        }
    }

    fn wait(&self) {
        let period = if self.refused_since.is_some() { BUSY_PERIOD } else { PERIOD };
        let timeout = Timespec { tv_sec: 0, tv_nsec: period.as_nanos() as i64 };
        let mut events = [const { std::mem::MaybeUninit::uninit() }; 16];
        // What is ready does not matter: a sweep looks everywhere. An interruption is as good as a wake-up.
        let _ = epoll::wait(&self.epoll, &mut events, Some(&timeout));
        let _ = rustix::io::read(&*self.wake, &mut [0u8; 8]);
    }
}

impl Entry {
    /// Has the ring wake the thread, unless its sink takes nothing: what comes in would wake it again and again, and
    /// take the processor from the writers that are to make room.
    fn watch(&mut self, epoll: &OwnedFd) {
        if self.watched == self.busy {
            self.watched = !self.busy;
            let events = if self.watched { WATCHED } else { epoll::EventFlags::empty() };
            // If this fails, the thread is woken too often, or reads this ring each 100 ms.
            let _ = epoll::modify(epoll, self.ring.as_fd(), epoll::EventData::new_u64(1), events);
        }
    }

    fn read(&mut self, quantum: u64) -> Progress {
        self.busy = false;
        if self.ring.position() >= self.until {
            return Progress::Drained;
        }
        let Self { ring, sink, state, .. } = self;
        let progress = ring.read(self.until, quantum, |block| match state {
            State::Discarding => Verdict::Next,
            State::Reading => match sink.block(block) {
                Take::Taken => Verdict::Next,
                Take::Busy => Verdict::Later,
                Take::Done => {
                    *state = State::Discarding;
                    Verdict::Next
                }
            },
        });
        self.busy = progress == Progress::Refused;
        progress
    }
}
