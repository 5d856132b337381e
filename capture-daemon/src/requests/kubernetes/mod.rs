//! Kubernetes as the place where requests come from: this node's pods, all PacketCaptures, CapturePolicies and
//! namespaces are watched, joined into wanted runs, and changes told to the engine. Records go the other way.
//!
//! Everything here runs on one thread with a runtime of its own, so that nothing of it can hold up a capture.

mod captures;
mod collection;
mod contact;
mod events;
mod late;
mod objects;
mod pace;
mod records;
mod source;
mod store;
mod watch;

use std::{collections::BTreeMap, sync::Arc, thread::JoinHandle, time::Duration};

use capture_api::{Caps, Defaults};
use jiff::Timestamp;
use kube::{Client, Config};
use tokio::{runtime::Runtime, sync::Notify};

pub use self::records::ClusterRecords;
use self::{events::Events, source::Source, store::NamespaceUids};
use crate::{
    pods::PodWatch,
    session::wanted::{RequestEvent, RunKey},
    telemetry::Meters,
};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long a connection may say nothing: a watch ends after less, whether or not anything happened.
const READ: Duration = Duration::from_secs(320);

/// What the source needs besides the API server.
#[derive(Debug)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// For what a request does not name.
    pub defaults: Defaults,
    /// For what no policy caps.
    pub caps: Caps,
    /// The runs that are there and whose requests stood, with the time when those were accepted: a restart does not
    /// lengthen their windows.
    pub runs: BTreeMap<RunKey, Timestamp>,
    /// How long captures go on without the API server.
    pub patience: Duration,
    /// Where the addresses of this node's pods are told.
    pub pods: PodWatch,
    /// Where lists and errors of watches are counted.
    pub meters: Meters,
}

/// Why the API server cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is neither a service account nor a kubeconfig.
    #[error("where is the API server? {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// What they say makes no client.
    #[error("cannot make a client of the API server: {0}")]
    Client(#[source] kube::Error),
    /// A thread or its runtime.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
}

/// Stops watching when dropped; records' last states are still written, for a moment.
#[derive(Debug)]
pub struct Handle {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Watches the API server and delivers what is wanted: first everything that is there, then [`RequestEvent::Listed`],
/// then each change. `records` are written by the same thread, which ends when the handle is dropped. `deliver` must
/// not block.
///
/// # Errors
/// Where the server is cannot be told. A server that does not answer is no error: it is waited for.
pub fn start(
    options: Options,
    records: ClusterRecords,
    deliver: impl FnMut(RequestEvent) + Send + 'static,
) -> Result<Handle, KubernetesError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(connect())?;
    let stop = Arc::new(Notify::new());
    records.started();
    let thread = std::thread::Builder::new().name("kubernetes".to_owned()).spawn({
        let stop = Arc::clone(&stop);
        move || work(&runtime, client, options, records, deliver, &stop)
    })?;
    Ok(Handle { stop, thread: Some(thread) })
}

async fn connect() -> Result<Client, KubernetesError> {
    let mut config = Config::infer().await?;
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(READ);
    // Whoever asks tries again in an own way.
    config.default_retry = false;
    Client::try_from(config).map_err(KubernetesError::Client)
}

fn work(
    runtime: &Runtime,
    client: Client,
    options: Options,
    records: ClusterRecords,
    deliver: impl FnMut(RequestEvent) + Send + 'static,
    stop: &Notify,
) {
    runtime.block_on(async {
        let namespaces = NamespaceUids::default();
        let events = records.events();
        let telling = tokio::spawn(Events::run(Arc::clone(&events), client.clone(), Arc::clone(&namespaces)));
        let stop_writing = Arc::new(Notify::new());
        let writing =
            tokio::spawn(records.write(client.clone(), Arc::clone(&namespaces), Arc::clone(&stop_writing)));
        tokio::select! {
            () = stop.notified() => {}
            () = Source::new(client, options, namespaces, events).run(deliver) => {}
        }
        stop_writing.notify_one();
        // A panic there was printed when it happened.
        let _ = writing.await;
        telling.abort();
    });
}
