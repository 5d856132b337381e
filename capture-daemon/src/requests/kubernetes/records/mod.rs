//! Records as PodCaptures of the API server. The engine only leaves here what they should be; a task writes it, at most
//! [`WRITES`] times a second, and goes on trying while the server is away.

mod entry;
mod object;
mod queue;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use capture_api::{PodCapture, Refusal};
use futures_util::{FutureExt, Stream, StreamExt, future::BoxFuture, pin_mut, stream::FuturesUnordered};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::watcher::{self, Event},
};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use self::{
    entry::{Outcome, Step},
    queue::Queue,
};
use super::{
    events::{Events, news, turned_away},
    objects::{Name, WatchedRecord},
    pace::{Pace, Pauses, seed},
    store::NamespaceUids,
    watch::{After, watch},
};
use crate::{
    session::{Records, wanted::Wanted},
    telemetry::{ApiObject, Telemetry},
};

/// The most writes in any second, of all records of the node.
const WRITES: usize = 5;
/// The most writes under way, each of another namespace.
const AT_ONCE: usize = 4;
/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long states are still written when the agent ends, and how long what nobody waits for may take.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// Pauses while the server is away.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// The first version that lists custom resources by their fields.
const LEAST_SERVER: &str = "v1.31";
/// Who owns the fields that are written.
const MANAGER: &str = "podtap-agent";

/// The records of this node. Clones share them.
#[derive(Clone, Debug)]
pub struct ClusterRecords(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    node: String,
    queue: Mutex<Queue>,
    wake: Notify,
    events: Arc<Events>,
    telemetry: Telemetry,
    /// What runs of an earlier agent are is no news.
    started: AtomicBool,
}

impl ClusterRecords {
    /// No records yet, of the node of that name. What is written is counted by `telemetry`, and without the list of what
    /// is there the agent is not ready.
    #[must_use]
    pub fn new(node: &str, telemetry: &Telemetry) -> Self {
        Self(Arc::new(Shared {
            node: node.to_owned(),
            queue: Mutex::new(Queue::new(node)),
            wake: Notify::new(),
            events: Arc::new(Events::new(node, telemetry.meters())),
            telemetry: telemetry.clone(),
            started: AtomicBool::new(false),
        }))
    }

    /// What events are to be told of.
    pub(super) fn events(&self) -> Arc<Events> {
        Arc::clone(&self.0.events)
    }

    /// What is published from now on is news.
    pub(super) fn started(&self) {
        self.0.started.store(true, Ordering::Release);
        self.0.telemetry.records(Some("this node's records are not listed yet".to_owned()));
    }

    /// Writes until `stop`, then the last states for a moment.
    pub(super) async fn write(self, client: Client, namespaces: NamespaceUids, stop: Arc<Notify>) {
        let selector = format!("spec.node={}", self.0.node);
        let records = watch(
            Api::<WatchedRecord>::all(client.clone()),
            watcher::Config::default().fields(&selector),
            &self.0.node,
            After::Resumed,
            Arc::default(),
        );
        pin_mut!(records);
        let mut writer = Writer::new(self.0, client, namespaces);
        writer.run(records, &stop).await;
        writer.finish().await;
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // A panic elsewhere leaves at worst an entry that is written once more.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Records for ClusterRecords {
    fn publish(&self, record: &PodCapture) -> bool {
        let mut record = record.clone();
        // The server's own.
        record.metadata.creation_timestamp = None;
        let before = self.0.queue().publish(&record, Instant::now());
        if self.0.started.load(Ordering::Acquire) {
            news(before.as_deref(), &record).into_iter().for_each(|told| self.0.events.tell(told));
        }
        self.0.wake.notify_one();
        true
    }

    fn turned_away(&self, wanted: &Wanted, refusal: &Refusal) {
        if self.0.started.load(Ordering::Acquire) {
            self.0.events.tell(turned_away(wanted, refusal, &self.0.node));
        }
    }

    fn remove(&self, namespace: &str, record: &str) {
        let name = Name { namespace: namespace.to_owned(), name: record.to_owned() };
        self.0.queue().remove(name, Instant::now());
        self.0.wake.notify_one();
    }
}

struct Writer {
    shared: Arc<Shared>,
    client: Client,
    namespaces: NamespaceUids,
    pace: Pace,
    pauses: Pauses,
    /// The server is away; not before this is it asked again.
    paused_until: Option<Instant>,
    /// What the server has been asked and has not answered yet, of different namespaces.
    asked: FuturesUnordered<BoxFuture<'static, Answer>>,
}

/// How a step went.
type Answer = (Name, Step, Outcome);

impl Writer {
    fn new(shared: Arc<Shared>, client: Client, namespaces: NamespaceUids) -> Self {
        Self {
            shared,
            client,
            namespaces,
            pace: Pace::new(WRITES, Duration::from_secs(1)),
            pauses: Pauses::new(PAUSES.0, PAUSES.1, seed(MANAGER)),
            paused_until: None,
            asked: FuturesUnordered::new(),
        }
    }

    async fn run(
        &mut self,
        mut records: impl Stream<Item = watcher::Result<Event<WatchedRecord>>> + Unpin,
        stop: &Notify,
    ) {
        let (mut failing, mut listed) = (false, false);
        loop {
            let due = self.due().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = stop.notified() => return,
                () = self.shared.wake.notified() => {}
                news = records.next() => match news {
                    Some(Ok(news)) => {
                        // A list that begins has not been answered yet.
                        if !matches!(news, Event::Init) && std::mem::take(&mut failing) {
                            info!("the records of this node are watched again");
                        }
                        if matches!(news, Event::InitDone) {
                            listed = true;
                            self.shared.telemetry.records(None);
                        }
                        self.shared.queue().take(news, Instant::now());
                    }
                    Some(Err(error)) => {
                        if !std::mem::replace(&mut failing, true) {
                            let server = version(self.client.clone()).await;
                            warn!(%error, server, "cannot watch the records of this node; trying on");
                            if !listed {
                                self.shared.telemetry.records(Some(format!(
                                    "this node's records cannot be listed at the API server ({server}; at least \
                                     {LEAST_SERVER} is needed): {error}"
                                )));
                            }
                        }
                    }
                    None => return,
                },
                Some(answer) = self.asked.next(), if !self.asked.is_empty() => self.answered(answer),
                () = tokio::time::sleep_until(due.into()) => self.ask_one(),
            }
        }
    }

    /// When the server may be asked next; none while nothing is to be asked, or enough is under way.
    fn due(&self) -> Option<Instant> {
        let due = self.shared.queue().due().filter(|_| self.asked.len() < AT_ONCE)?;
        let free = self.pace.free_at(Instant::now());
        Some(due.max(free).max(self.paused_until.unwrap_or(due)))
    }

    /// Asks for what is due, if anything is.
    fn ask_one(&mut self) {
        let now = Instant::now();
        let next = {
            let uids = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
            let in_namespace =
                |namespace: &str, uid: &str| uids.get(namespace).is_some_and(|known| known == uid);
            let mut queue = self.shared.queue();
            let next = queue.next(now, in_namespace);
            if let Some((name, Step::PatchStatus { .. })) = &next {
                queue.taken(name);
            }
            next
        };
        let Some((name, step)) = next else { return };
        self.pace.count(now);
        let client = self.client.clone();
        let answer = async move {
            let outcome = match tokio::time::timeout(PATIENCE, ask(client, &name, &step)).await {
                Ok(answer) => outcome(answer),
                Err(_) => Outcome::Failed(format!("no answer within {PATIENCE:?}")),
            };
            (name, step, outcome)
        };
        self.asked.push(answer.boxed());
    }

    fn answered(&mut self, (name, step, outcome): Answer) {
        let failed = match (&step, &outcome) {
            (Step::Delete { .. }, Outcome::Missing) => false,
            (_, outcome) => !matches!(outcome, Outcome::Done(_)),
        };
        if !matches!(step, Step::Read) {
            self.shared.telemetry.meters().api_write(ApiObject::PodCapture, !failed);
        }
        let now = Instant::now();
        match &outcome {
            Outcome::Away | Outcome::Busy => {
                let pause = self.pauses.failed();
                debug!(?pause, "records cannot be written for the moment");
                self.paused_until = Some(now + pause);
            }
            // It says nothing of the others.
            Outcome::Failed(_) => {}
            _ => {
                self.pauses.reset();
                self.paused_until = None;
            }
        }
        self.shared.queue().done(&name, step, outcome, now);
    }

    /// The agent ends: what states say now is still written, as far as it goes.
    async fn finish(&mut self) {
        let deadline = Instant::now() + LAST_WRITES;
        loop {
            let due = self.due().filter(|due| *due < deadline);
            if due.is_none() && self.asked.is_empty() {
                return;
            }
            tokio::select! {
                Some(answer) = self.asked.next(), if !self.asked.is_empty() => self.answered(answer),
                () = tokio::time::sleep_until(due.unwrap_or(deadline).into()) => match due {
                    Some(_) => self.ask_one(),
                    None => return,
                },
            }
        }
    }
}

/// The server's version, as far as it tells.
async fn version(client: Client) -> String {
    match tokio::time::timeout(LAST_WRITES, client.apiserver_version()).await {
        Ok(Ok(version)) => version.git_version,
        Ok(Err(_)) | Err(_) => "of unknown version".to_owned(),
    }
}

async fn ask(client: Client, name: &Name, step: &Step) -> kube::Result<Option<WatchedRecord>> {
    let api: Api<WatchedRecord> = Api::namespaced(client.clone(), &name.namespace);
    let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
    match step {
        Step::Read => api.get(&name.name).await.map(Some),
        Step::Create { object, .. } => {
            let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
            let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
            let request = kube::core::Request::new(api.resource_url())
                .create(&params, body)
                .map_err(kube::Error::BuildRequest)?;
            client.request(request).await.map(Some)
        }
        Step::Patch { patch, .. } => api.patch(&name.name, &params, &Patch::Merge(patch)).await.map(Some),
        Step::PatchStatus { patch, .. } => {
            api.patch_status(&name.name, &params, &Patch::Merge(patch)).await.map(Some)
        }
        Step::Delete { uid } => {
            let preconditions =
                uid.clone().map(|uid| Preconditions { uid: Some(uid), resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            api.delete(&name.name, &params).await.map(|_| None)
        }
    }
}

/// What an answer means for a record.
fn outcome(answer: kube::Result<Option<WatchedRecord>>) -> Outcome {
    match answer {
        Ok(object) => Outcome::Done(object.map(Box::new)),
        Err(kube::Error::Api(status)) => match status.code {
            404 => Outcome::Missing,
            409 => Outcome::Conflict,
            408 | 429 | 503 => Outcome::Busy,
            500.. => Outcome::Failed(status.message.clone()),
            _ => Outcome::Refused(status.message.clone()),
        },
        Err(error) => {
            debug!(%error, "no answer to a write");
            Outcome::Away
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
