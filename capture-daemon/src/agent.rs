//! The agent: puts the node's means together and runs until it is told to stop.

use std::{path::Path, sync::mpsc, thread, time::Duration};

use capture_filter::Compiler;
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    config::Config,
    datapath::{Clock, Consumer, DatapathError, Loader},
    pods::{CniCache, Finder, Links, LinksError, PodWatch},
    requests::{
        manifests::{self, ManifestsError, Options},
        status_dir::{StatusDir, StatusError},
    },
    session::{Engine, EngineError, Event, Limits, Node, RingBudget, Workers},
    storage::{Storage, StorageConfig, StorageError},
};

/// How many bytes of one ring are read before the next one has its turn.
const QUANTUM: usize = 256 << 10;
/// Loading keeps a CPU busy while attaching waits for the kernel: two threads overlap them.
const WORKERS: usize = 2;
/// How soon a session looks again for what is not there; link events make it look at once.
const RETRY: Duration = Duration::from_secs(1);

/// Why the agent cannot start.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The kernel side.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The data directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The host's links.
    #[error(transparent)]
    Links(#[from] LinksError),
    /// The directory of records.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The directory of manifests.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// The runs that are there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A thread or a signal handler.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Runs the agent on a directory of manifests until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start; once it runs, what fails ends the capture that it concerns.
pub fn run(config: &Config, manifests: &Path) -> Result<(), AgentError> {
    let loader = Loader::new(config.attach_mode.forced())?;
    let rings = RingBudget::of(config.memory_budget);
    loader.prepare(rings.next());
    let storage = Storage::open(StorageConfig {
        data_dir: config.data_dir.clone(),
        buffer_bytes: config.memory_budget - RingBudget::share(config.memory_budget),
        writers: config.writers,
        write_bytes_per_second: config.write_bandwidth,
        quota_bytes: config.quota,
        max_disk_percent: config.max_disk_percent,
    })?;
    let records = StatusDir::open(&config.data_dir)?;
    let (tell, events) = mpsc::channel();
    stop_on_signals(tell.clone())?;
    let links = Links::watch({
        let tell = tell.clone();
        move |event| {
            let _ = tell.send(Event::Link(event));
        }
    })?;
    let attach_mode = loader.mode();
    let node = Node::new(
        config.node_name.clone(),
        Limits {
            captures_per_namespace: config.caps.captures as usize,
            retry: RETRY,
            sockets_in_bulk: config.attach_mode.forced().is_none(),
        },
        storage,
        rings,
        Finder::new(links, CniCache::default(), PodWatch::default()),
        loader,
        Consumer::start(QUANTUM)?,
        Clock::start()?,
        Compiler::new()?,
        Workers::start(WORKERS)?,
        tell.clone(),
    );
    let engine = Engine::new(node, Box::new(records))?;
    let options = Options {
        defaults: config.defaults.clone(),
        caps: config.caps.clone(),
        accepted: engine.accepted(),
        max_files: config.max_manifests,
    };
    let _watch = manifests::start(manifests, &options, move |event| {
        let _ = tell.send(Event::Request(event));
    })?;
    info!(
        node = config.node_name,
        ?attach_mode,
        data_dir = %config.data_dir.display(),
        manifests = %manifests.display(),
        "ready"
    );
    engine.run(&events);
    info!("stopped");
    Ok(())
}

/// SIGTERM and SIGINT end the agent in an orderly way.
fn stop_on_signals(tell: mpsc::Sender<Event>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _in_runtime = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                let name = tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                };
                warn!(signal = name, "asked to stop");
                let _ = tell.send(Event::Shutdown);
            }
        });
    })?;
    Ok(())
}
