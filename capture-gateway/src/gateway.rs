//! The loop that owns what is known and decides what is written.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use capture_api::PacketCapture;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;
use tokio::time::{self, MissedTickBehavior};
use tracing::{debug, info, warn};

use crate::agents::{self, Agents};
use crate::board::{Board, Facts, Write};
use crate::budget::Budget;
use crate::captures::CaptureObject;
use crate::cli::Run;
use crate::contact::{Back, Contact};
use crate::default_policy::{self, DefaultPolicy};
use crate::health::Health;
use crate::http;
use crate::lease::{Candidate, Leadership};
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::records::Records;
use crate::rules::Rules;
use crate::status::Change;
use crate::sweep::Sweep;
use crate::watch::{self, Seen};
use crate::write::{MANAGER, Outcome, Writer};

/// How often the loop looks for something to write.
const TURN: Duration = Duration::from_millis(100);
/// Writes under way at once.
const AT_ONCE: usize = 8;
/// How long the API server may be silent in the middle of an answer. Watches last 290 s and end by themselves.
const SILENCE: Duration = Duration::from_secs(330);
/// How long giving up the lease may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why a gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Neither a kubeconfig nor a service account says where the API server is.
    #[error("no cluster to work for")]
    Cluster(#[source] kube::config::InferConfigError),
    /// What they say cannot be used.
    #[error("the cluster's address or credentials cannot be used")]
    Client(#[source] kube::Error),
    /// The address of /healthz, /readyz and /metrics is taken or not this machine's.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signal(#[source] io::Error),
    /// Something that must run as long as the gateway ended before it.
    #[error("the gateway's {0} ended unexpectedly")]
    Ended(&'static str),
}

/// Runs the gateway until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start, or a part of it ended.
pub async fn run(run: Run) -> Result<(), GatewayError> {
    let config = config().await?;
    let client = Client::try_from(config.clone()).map_err(GatewayError::Client)?;
    let metrics = Metrics::default();
    let health = Arc::new(Health::new(Instant::now()));
    let listen = |source| GatewayError::Listen { address: run.http_address, source };
    let listener = TcpListener::bind(run.http_address).await.map_err(listen)?;
    let mut server =
        tokio::spawn(axum::serve(listener, http::router(health.clone(), &metrics)).into_future());

    let me = run.identity.clone().filter(|name| !name.is_empty()).unwrap_or_else(host_name);
    let (contact, back) = Contact::new();
    let (candidate, leadership) =
        Candidate::new(client.clone(), &run.lease_namespace, me, run.lease_duration, contact);
    let (stop, stopped) = channel::channel(false);
    let mut candidate = tokio::spawn(candidate.run(stopped));

    let mut terminate = signal(SignalKind::terminate()).map_err(GatewayError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(GatewayError::Signal)?;
    let mut gateway = Gateway::new(&run, (config, client), leadership, metrics.clone(), health);
    info!(version = env!("CARGO_PKG_VERSION"), http = %run.http_address, "the gateway runs");
    let done = tokio::select! {
        () = gateway.run(back) => Err(GatewayError::Ended("watches")),
        _ = &mut candidate => Err(GatewayError::Ended("lease")),
        _ = &mut server => Err(GatewayError::Ended("HTTP server")),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    // Nothing is written any more when the lease is given up.
    drop(gateway);
    if done.is_ok() {
        info!("the gateway was told to stop");
        let _ = stop.send(true);
        let _ = time::timeout(FAREWELL, candidate).await;
    }
    server.abort();
    done
}

async fn config() -> Result<Config, GatewayError> {
    let mut config = Config::infer().await.map_err(GatewayError::Cluster)?;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    // What fails is tried again here, where it is known whether it still makes sense.
    config.default_retry = false;
    Ok(config)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A write that is over: what it was, what became of it, and the object's version since.
type Written = (Write, Outcome, Option<String>);

/// All that is known, and what is under way.
struct Gateway {
    /// What clients are made of.
    config: Config,
    client: Client,
    leadership: Leadership,
    metrics: Metrics,
    health: Arc<Health>,
    writer: Writer,
    budget: Arc<Budget>,
    gone_after: Duration,
    board: Board,
    records: Records,
    records_complete: bool,
    rules: Rules,
    /// Namespace and name of agents' ConfigMap.
    agent_config: (String, String),
    agents_known: bool,
    nodes: Nodes,
    /// The gateway's own namespace.
    namespace: String,
    default_policy: DefaultPolicy,
    policies: JoinSet<bool>,
    writes: JoinSet<Written>,
    /// The node whose records are being looked at.
    sweeping: Option<Arc<str>>,
    sweeps: JoinSet<Instant>,
    led: bool,
}

impl Gateway {
    fn new(
        run: &Run,
        (config, client): (Config, Client),
        leadership: Leadership,
        metrics: Metrics,
        health: Arc<Health>,
    ) -> Self {
        Self {
            config,
            client,
            leadership,
            writer: Writer { metrics: metrics.clone() },
            metrics,
            health,
            budget: Arc::new(Budget::new(run.writes_per_second, Instant::now())),
            gone_after: run.node_gone_after,
            board: Board::default(),
            records: Records::default(),
            records_complete: false,
            rules: Rules::default(),
            agent_config: run.agent_config.clone(),
            agents_known: false,
            nodes: Nodes::default(),
            namespace: run.lease_namespace.clone(),
            default_policy: DefaultPolicy::Due(Instant::now()),
            policies: JoinSet::new(),
            writes: JoinSet::new(),
            sweeping: None,
            sweeps: JoinSet::new(),
            led: false,
        }
    }

    /// Turns until the watches end, which they do not.
    async fn run(&mut self, mut back: Back) {
        let mut watches = watch::start(&self.client, &self.metrics, &self.agent_config);
        let mut turns = time::interval(TURN);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seconds = time::interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut compares =
            time::interval((self.gone_after / 10).clamp(Duration::from_secs(1), Duration::from_secs(10)));
        compares.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = watches.next() => match event {
                    Some(event) => self.take_in(event),
                    None => return,
                },
                () = back.heard() => {
                    info!("the API server answers again: everything is listed anew");
                    self.reconnect();
                    watches = watch::start(&self.client, &self.metrics, &self.agent_config);
                }
                Some(written) = self.writes.join_next() => {
                    if let Ok((write, outcome, version)) = written {
                        self.board.written(write, outcome, version, Instant::now());
                    }
                }
                Some(swept) = self.sweeps.join_next() => self.swept(swept.ok()),
                Some(made) = self.policies.join_next() => {
                    self.default_policy.over(made.unwrap_or(false), Instant::now());
                }
                _ = turns.tick() => self.turn(),
                _ = seconds.tick() => self.second(),
                _ = compares.tick() => self.compare(),
            }
        }
    }

    /// Leaves the connections that there are to themselves: any of them may be one that the network has forgotten.
    fn reconnect(&mut self) {
        match Client::try_from(self.config.clone()) {
            Ok(client) => self.client = client,
            Err(error) => warn!(%error, "the connections to the API server stay as they are"),
        }
    }

    fn take_in(&mut self, event: Seen) {
        match event {
            Seen::Capture(event) => self.capture(event),
            Seen::Record(event) => {
                let changed = match event {
                    Event::Init => {
                        self.records.list();
                        Vec::new()
                    }
                    Event::InitDone => {
                        self.records_complete = true;
                        self.records.listed()
                    }
                    Event::InitApply(record) | Event::Apply(record) => {
                        self.records.apply(record).into_iter().collect()
                    }
                    Event::Delete(record) => self.records.delete(&record).into_iter().collect(),
                };
                for request in changed {
                    self.board.mark(&request);
                    // Runs of a capture that is gone are summed up by nobody.
                    if self.board.is_complete() && !self.board.has(&request) {
                        self.records.forget(&request);
                    }
                }
            }
            Seen::Policy(event) => match event {
                Event::Init => self.rules.policies.list(),
                Event::InitApply(policy) => self.rules.apply(&policy),
                Event::InitDone => {
                    self.rules.policies.listed();
                    self.board.mark_all(None);
                }
                Event::Apply(policy) => {
                    self.rules.apply(&policy);
                    self.board.mark_all(None);
                }
                Event::Delete(policy) => {
                    self.rules.policies.remove(&policy.name_any());
                    self.board.mark_all(None);
                }
            },
            Seen::Namespace(event) => match event {
                Event::Init => self.rules.namespaces.list(),
                Event::InitDone => {
                    self.rules.namespaces.listed();
                    self.board.mark_all(None);
                }
                Event::InitApply(namespace) | Event::Apply(namespace) => {
                    let name = namespace.name_any();
                    let labels = namespace.metadata.labels.unwrap_or_default();
                    if self.rules.namespaces.insert(name.clone(), labels.clone()) != Some(labels) {
                        self.board.mark_all(Some(&name));
                    }
                }
                Event::Delete(namespace) => drop(self.rules.namespaces.remove(&namespace.name_any())),
            },
            Seen::Node(event) => match event {
                Event::Init => self.nodes.present.list(),
                Event::InitDone => drop(self.nodes.present.listed()),
                Event::InitApply(node) | Event::Apply(node) => self.node(node.name_any()),
                Event::Delete(node) => drop(self.nodes.present.remove(&node.name_any())),
            },
            Seen::AgentConfig(event) => match event {
                Event::InitApply(config) | Event::Apply(config) => self.configure(&config),
                Event::InitDone => self.agents_known = true,
                // Agents that run go on with what they have read.
                Event::Init | Event::Delete(_) => {}
            },
        }
    }

    fn capture(&mut self, event: Event<CaptureObject>) {
        let gone = match event {
            Event::Init => {
                self.board.list();
                Vec::new()
            }
            Event::InitDone => self.board.listed(),
            Event::InitApply(capture) | Event::Apply(capture) => {
                self.board.apply(capture, Instant::now());
                Vec::new()
            }
            Event::Delete(capture) => self.board.delete(&capture).into_iter().collect(),
        };
        for request in gone {
            self.records.forget(&request);
        }
    }

    /// Agents' configuration is there, or has changed.
    fn configure(&mut self, config: &ConfigMap) {
        let text = config.data.as_ref().and_then(|data| data.get(agents::KEY));
        match Agents::read(text.map(String::as_str)) {
            Ok(agents) if agents == self.rules.agents => {}
            Ok(agents) => {
                self.rules.agents = agents;
                self.board.mark_all(None);
            }
            Err(problem) => {
                let config = config.name_any();
                warn!(config, problem, "agents' configuration cannot be read: what was known of it holds on");
            }
        }
    }

    /// A node is there: what is being made of its records is left off.
    fn node(&mut self, name: String) {
        self.nodes.back(&name);
        if self.sweeping.as_deref() == Some(name.as_str()) {
            self.sweeps.abort_all();
        }
        self.nodes.present.insert(name, ());
    }

    fn is_ready(&self) -> bool {
        self.records_complete
            && self.board.is_complete()
            && self.rules.policies.is_complete()
            && self.rules.namespaces.is_complete()
            && self.agents_known
            && self.nodes.present.is_complete()
    }

    /// Looks at what has changed and begins writes.
    fn turn(&mut self) {
        let now = Instant::now();
        let ready = self.is_ready();
        self.health.turn(now, ready);
        let leads = self.leadership.is_held();
        if leads != self.led {
            self.led = leads;
            self.metrics.leader.set(leads.into());
            if leads {
                self.board.mark_all(None);
            } else {
                self.board.stand_down();
                self.sweeps.abort_all();
            }
        }
        if !leads || !ready {
            return;
        }
        let utc = Timestamp::now();
        if self.default_policy.begin(now) {
            self.policies.spawn(default_policy::make(self.client.clone(), self.namespace.clone()));
        }
        let facts = Facts { records: &self.records, rules: &self.rules };
        self.board.look(&facts, now, utc);
        while self.board.waiting() > 0 && self.writes.len() < AT_ONCE && self.budget.take(now) {
            let Some(write) = self.board.next(&facts, utc) else { break };
            let Some(until) = self.leadership.until() else {
                self.board.written(write, Outcome::Failed, None, now);
                break;
            };
            self.writes.spawn(write_status(self.client.clone(), self.writer.clone(), write, until));
        }
        self.metrics.waiting.set(count(self.board.waiting()));
        self.sweep(now);
    }

    fn second(&mut self) {
        self.board.mark_edges(Timestamp::now());
        for (state, number) in self.board.by_state() {
            self.metrics.captures(state, number);
        }
        self.metrics.records.set(count(self.records.len()));
        self.metrics.nodes_missing.set(count(self.nodes.missing()));
    }

    fn compare(&mut self) {
        if self.is_ready() {
            self.nodes.compare(self.records.nodes(), Instant::now(), self.gone_after);
        }
    }

    /// Begins to look at the records of the node that has been gone for longest, one node at a time.
    fn sweep(&mut self, now: Instant) {
        if self.sweeping.is_some() {
            return;
        }
        let Some(node) = self.nodes.due(now) else { return };
        debug!(%node, "looking at the records of a node that is gone");
        self.sweeping = Some(node.clone());
        let sweep = Sweep {
            client: self.client.clone(),
            writer: self.writer.clone(),
            leadership: self.leadership.clone(),
            budget: self.budget.clone(),
        };
        self.sweeps.spawn(sweep.run(node));
    }

    /// None when it was left off.
    fn swept(&mut self, next: Option<Instant>) {
        if let (Some(node), Some(next)) = (self.sweeping.take(), next) {
            self.nodes.looked(&node, next);
        }
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Writes a PacketCapture's status, if it is still the one that was seen.
async fn write_status(client: Client, writer: Writer, write: Write, until: Instant) -> Written {
    let resource = ApiResource::erase::<PacketCapture>(&());
    let captures: Api<DynamicObject> = Api::namespaced_with(client, &write.namespace, &resource);
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let patch = Patch::Merge(json!({
        "metadata": {"uid": write.uid_text, "resourceVersion": write.resource_version},
        "status": write.status,
    }));
    let kind = match write.change {
        Change::State => "state",
        Change::Counters => "counters",
    };
    let mut version = None;
    let request = async {
        let object = captures.patch_status(&write.name, &params, &patch).await?;
        version = object.metadata.resource_version;
        Ok(())
    };
    let outcome = writer.write(kind, until, request).await;
    (write, outcome, version)
}
