//! What the agent tells of itself: its log, and numbers and health over HTTP.
//!
//! The engine writes a [`Snapshot`] once a second, other threads count in [`Meters`] and give a [`Pulse`] or [`Delays`]; the
//! HTTP thread makes text of it when it is asked, so that an agent whom nobody asks does next to nothing for it.

mod health;
pub mod logging;
mod meters;
mod metrics;
mod process;
mod server;
pub mod snapshot;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use jiff::Timestamp;

use self::{health::Readiness, metrics::Reading, process::Process};
pub use self::{
    health::STUCK,
    meters::{ApiObject, Meters, Watched},
    server::ServeError,
    snapshot::Snapshot,
};
use crate::{datapath::AttachMode, delays::Delays, pulse::Pulse};

/// Where everybody tells. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    started: Timestamp,
    /// Whether anybody may ask.
    served: AtomicBool,
    snapshot: Mutex<Snapshot>,
    /// The engine has written its numbers.
    written: AtomicBool,
    meters: Meters,
    pulses: Mutex<Vec<Pulse>>,
    /// Those of threads without which no packet is taken.
    vital: Mutex<Vec<Pulse>>,
    /// Of writes, and of rings that waited for buffers.
    delays: Mutex<[Delays; 2]>,
    attach_mode: Mutex<Option<AttachMode>>,
    listed: AtomicBool,
    /// Why no records can be shown, if so.
    records: Mutex<Option<String>>,
}

impl Default for Telemetry {
    /// Of an agent that has just begun, which nobody can ask yet.
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                started: Timestamp::now(),
                served: false.into(),
                snapshot: Mutex::default(),
                written: false.into(),
                meters: Meters::default(),
                pulses: Mutex::default(),
                vital: Mutex::default(),
                delays: Mutex::default(),
                records: Mutex::default(),
                attach_mode: Mutex::default(),
                listed: false.into(),
            }),
        }
    }
}

impl Telemetry {
    /// Counters for whatever thread something happens in.
    #[must_use]
    pub fn meters(&self) -> &Meters {
        &self.inner.meters
    }

    /// A thread that must not stop. From now on it must beat or rest.
    pub fn watch(&self, pulse: Pulse) {
        lock(&self.inner.pulses).push(pulse);
    }

    /// A thread without which no packet is taken. While it is stuck there is nothing left to lose by a restart.
    pub fn watch_vital(&self, pulse: Pulse) {
        lock(&self.inner.vital).push(pulse.clone());
        self.watch(pulse);
    }

    /// Has it tell how long writes take, and how long rings wait for buffers.
    pub fn watch_delays(&self, writes: Delays, buffer_waits: Delays) {
        *lock(&self.inner.delays) = [writes, buffer_waits];
    }

    /// Why records cannot be shown; none when they can.
    pub fn records(&self, missing: Option<String>) {
        *lock(&self.inner.records) = missing;
    }

    /// The kernel took the agent's programs, and this is how it attaches them.
    pub fn loaded(&self, mode: AttachMode) {
        *lock(&self.inner.attach_mode) = Some(mode);
    }

    /// All requests that were there at the start are known.
    pub fn listed(&self) {
        self.inner.listed.store(true, Relaxed);
    }

    /// Has the engine's numbers written, if anybody may ask for them.
    pub fn write(&self, write: impl FnOnce(&mut Snapshot)) {
        if self.inner.served.load(Relaxed) {
            write(&mut lock(&self.inner.snapshot));
            self.inner.written.store(true, Relaxed);
        }
    }

    fn reading(&self) -> Reading {
        let inner = &*self.inner;
        Reading {
            snapshot: lock(&inner.snapshot).clone(),
            meters: inner.meters.clone(),
            pulses: lock(&inner.pulses).clone(),
            delays: lock(&inner.delays).clone(),
            attach_mode: *lock(&inner.attach_mode),
            started: inner.started.as_millisecond() as f64 / 1e3,
            process: Process::own(),
        }
    }

    /// Threads without which no packet is taken and that are stuck, in words.
    fn lost(&self) -> Vec<String> {
        health::stuck(&lock(&self.inner.vital), STUCK)
    }

    /// What is missing for requests to be carried out.
    pub(crate) fn missing(&self) -> Vec<String> {
        let inner = &*self.inner;
        let readiness = Readiness {
            loaded: lock(&inner.attach_mode).is_some(),
            listed: inner.listed.load(Relaxed),
            running: inner.written.load(Relaxed),
            unwritable: lock(&inner.snapshot).unwritable,
            records: lock(&inner.records).clone(),
        };
        let mut missing = readiness.missing();
        missing.extend(health::stuck(&lock(&inner.pulses), STUCK));
        missing
    }
}

/// Whoever panicked while holding it left plain numbers behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
