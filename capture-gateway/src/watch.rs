//! Watches what the gateway knows the cluster by. Each watch is its own task; all tell the one loop that owns the caches.

use capture_api::{CapturePolicy, PodCapture};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use kube::api::ApiResource;
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use crate::captures::CaptureObject;
use crate::metrics::Metrics;
use crate::records::RecordObject;

/// Events on their way to the loop: a bound, so that a list of any length waits at the API server.
const QUEUE: usize = 32;
/// Objects asked for at once in a list.
const PAGE: u32 = 500;
/// The same of what users make, who can make objects of a megabyte and more.
const USERS_PAGE: u32 = 25;

/// Something that a watch tells.
#[derive(Debug)]
pub(crate) enum Seen {
    Capture(Event<CaptureObject>),
    Record(Event<RecordObject>),
    Policy(Event<DynamicObject>),
    Namespace(Event<PartialObjectMeta<Namespace>>),
    Node(Event<PartialObjectMeta<Node>>),
    /// The one ConfigMap of agents.
    AgentConfig(Event<ConfigMap>),
}

/// The watches; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Watches {
    events: mpsc::Receiver<Seen>,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// The next that one of them tells; none when they have ended, which they do not by themselves.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        self.events.recv().await
    }
}

/// Starts all watches, each with a list; `agent_config` is namespace and name of agents' ConfigMap.
pub(crate) fn start(client: &Client, metrics: &Metrics, agent_config: &(String, String)) -> Watches {
    let (seen, events) = mpsc::channel(QUEUE);
    let mut tasks = JoinSet::new();
    let captures = Api::<CaptureObject>::all(client.clone());
    let records = Api::all_with(client.clone(), &ApiResource::erase::<PodCapture>(&()));
    let policies = Api::all_with(client.clone(), &ApiResource::erase::<CapturePolicy>(&()));
    tasks.spawn(tell(
        "packetcaptures",
        stream(captures, USERS_PAGE),
        Seen::Capture,
        seen.clone(),
        metrics.clone(),
    ));
    tasks.spawn(tell("podcaptures", stream(records, PAGE), Seen::Record, seen.clone(), metrics.clone()));
    tasks.spawn(tell("capturepolicies", stream(policies, PAGE), Seen::Policy, seen.clone(), metrics.clone()));
    // Labels and names are all that is needed of these, so their metadata is all that is asked for.
    let namespaces = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
    let nodes = Api::<PartialObjectMeta<Node>>::all(client.clone());
    tasks.spawn(tell("namespaces", stream(namespaces, PAGE), Seen::Namespace, seen.clone(), metrics.clone()));
    tasks.spawn(tell("nodes", stream(nodes, PAGE), Seen::Node, seen.clone(), metrics.clone()));
    let (namespace, name) = agent_config;
    // By name, which is all that the gateway may see there.
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let config = watcher(Api::<ConfigMap>::namespaced(client.clone(), namespace), only).default_backoff();
    tasks.spawn(tell("configmaps", config, Seen::AgentConfig, seen, metrics.clone()));
    Watches { events, _tasks: tasks }
}

fn stream<K>(api: Api<K>, page: u32) -> impl Stream<Item = watcher::Result<Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static,
{
    watcher(api, watcher::Config::default().page_size(page)).default_backoff()
}

async fn tell<K>(
    resource: &'static str,
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send,
    wrap: fn(Event<K>) -> Seen,
    seen: mpsc::Sender<Seen>,
    metrics: Metrics,
) {
    let mut works = None;
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                if works != Some(true) {
                    metrics.watching(resource, true);
                    works = Some(true);
                }
                if seen.send(wrap(event)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                metrics.watching(resource, false);
                if works != Some(false) {
                    warn!(resource, %error, "a watch failed; it is tried again");
                    works = Some(false);
                }
            }
        }
    }
}
