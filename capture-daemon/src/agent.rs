//! The agent: puts the node's means together and runs until it is told to stop.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use capture_api::Caps;
use capture_filter::Compiler;
use thiserror::Error;
use tracing::{info, warn};

use crate::{
    config::Config,
    datapath::{AttachMode, Clock, Consumer, DatapathError, Loader},
    pods::{CniCache, Finder, LinkNews, Links, LinksError, PodWatch},
    requests::{
        kubernetes::{self, ClusterRecords, KubernetesError},
        manifests::{self, ManifestsError, Options},
        status_dir::{StatusDir, StatusError},
    },
    session::{Engine, EngineError, Event, Limits, Node, Provisional, Records, RingBudget, Workers},
    storage::{Storage, StorageConfig, StorageError},
    telemetry::{ServeError, Telemetry},
};

/// How many bytes of one ring are read before the next one has its turn.
const QUANTUM: usize = 256 << 10;
/// Loading keeps a CPU busy while attaching waits for the kernel: two threads overlap them.
const WORKERS: usize = 2;
/// Where metrics and health are served on Kubernetes, unless the configuration says otherwise.
const HTTP_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9471);
/// Where health alone is.
const HEALTH_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9470);
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
    /// The API server.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// The runs that are there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Metrics and health.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A thread or a signal handler.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Where requests come from.
#[derive(Clone, Copy, Debug)]
pub enum Requests<'a> {
    /// A directory of manifests.
    Manifests(&'a Path),
    /// The API server.
    Kubernetes,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start; once it runs, what fails ends the capture that it concerns.
pub fn run(config: &Config, requests: Requests<'_>) -> Result<(), AgentError> {
    let telemetry = Telemetry::default();
    let on_kubernetes = |address| matches!(requests, Requests::Kubernetes).then_some(address);
    if let Some(address) = config.http_address.or_else(|| on_kubernetes(HTTP_ADDRESS)) {
        telemetry.serve(address)?;
    }
    if let Some(address) = config.health_address.or_else(|| on_kubernetes(HEALTH_ADDRESS)) {
        telemetry.serve_health(address)?;
    }
    let loader = Loader::new(config.attach_mode.forced())?;
    let rings = RingBudget::of(config.memory_budget);
    loader.prepare(rings.next());
    let storage = Storage::open(StorageConfig {
        data_dir: config.data_dir.clone(),
        buffer_bytes: config.memory_budget - RingBudget::share(config.memory_budget),
        writers: config.writers,
        write_bytes_per_second: config.write_bandwidth,
        quota_bytes: config.quota,
        namespace_quota_bytes: config.quota_per_namespace,
        max_disk_percent: config.max_disk_percent,
    })?;
    let meters = telemetry.meters().clone();
    let cluster = ClusterRecords::new(&config.node_name, &telemetry);
    let records: Box<dyn Records> = match requests {
        Requests::Manifests(_) => Box::new(StatusDir::open(&config.data_dir)?),
        Requests::Kubernetes => Box::new(cluster.clone()),
    };
    let (tell, events) = mpsc::channel();
    stop_on_signals(tell.clone())?;
    let workers = Workers::start(WORKERS)?;
    // They are sockets: where those are not wanted, there are none.
    let sockets = config.attach_mode.forced() != Some(AttachMode::Tcx);
    let provisional = Provisional::new(workers.clone(), if sockets { config.provisional_bytes } else { 0 });
    let link_news = LinkNews::default();
    let links = Links::watch({
        let (tell, provisional) = (tell.clone(), provisional.clone());
        let (link_news, meters) = (link_news.clone(), meters.clone());
        move |event| {
            provisional.hears(&event);
            meters.link(&event);
            if link_news.add(event) {
                let _ = tell.send(Event::Links);
            }
        }
    })?;
    provisional.knows(&links.pairs());
    let cache = CniCache::watch(config.cni_cache_dirs.clone(), {
        let tell = tell.clone();
        move || {
            let _ = tell.send(Event::Places);
        }
    })?;
    let watch = PodWatch::default();
    let attach_mode = loader.mode();
    telemetry.loaded(attach_mode);
    storage.pulses().iter().for_each(|pulse| telemetry.watch(pulse.clone()));
    let consumer = Consumer::start(QUANTUM)?;
    telemetry.watch_vital(consumer.pulse());
    telemetry.watch_delays(storage.writes(), consumer.refusals());
    let mut node = Node::new(
        config.node_name.clone(),
        Limits { retry: RETRY, sockets_in_bulk: config.attach_mode.forced().is_none() },
        storage,
        rings,
        Finder::new(links, cache, watch.clone()),
        loader,
        consumer,
        Clock::start()?,
        Compiler::new()?,
        workers,
        tell.clone(),
    );
    node.telemetry = telemetry;
    node.provisional = provisional;
    node.link_news = link_news;
    let engine = Engine::new(node, records)?;
    let deliver = move |event| {
        let _ = tell.send(Event::Request(event));
    };
    // Kept until the engine has ended: then they are stopped.
    let (mut _manifests, mut _kubernetes) = (None, None);
    match requests {
        Requests::Manifests(directory) => {
            let options = Options {
                defaults: config.defaults.clone(),
                caps: config.caps.clone(),
                accepted: engine.accepted(),
                max_files: config.max_manifests,
                watch,
            };
            _manifests = Some(manifests::start(directory, &options, deliver)?);
        }
        Requests::Kubernetes => {
            let options = kubernetes::Options {
                node: config.node_name.clone(),
                defaults: config.defaults.clone(),
                caps: Caps { whose: "namespace", ..config.caps.clone() },
                runs: engine.accepted(),
                patience: config.api_server_patience.0,
                pods: watch,
                meters,
            };
            _kubernetes = Some(kubernetes::start(options, cluster, deliver)?);
        }
    }
    info!(
        node = config.node_name,
        ?attach_mode,
        data_dir = %config.data_dir.display(),
        ?requests,
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
