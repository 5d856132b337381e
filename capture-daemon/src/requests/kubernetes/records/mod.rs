//! Records as PodCaptures of the API server. The engine only leaves here what they should be; a task writes it, at most
//! [`WRITES`] times a second, and goes on trying while the server is away.

mod object;
mod queue;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use capture_api::PodCapture;
use futures_util::{Stream, StreamExt, pin_mut};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::watcher::{self, Event},
};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use self::queue::{Outcome, Queue, Step};
use super::{
    events::{Events, news},
    objects::{Name, WatchedRecord},
    pace::{Pace, Pauses, seed},
    store::NamespaceUids,
    watch::{After, watch},
};
use crate::{
    session::Records,
    telemetry::{ApiObject, Meters},
};

/// The most writes in any second, of all records of the node.
const WRITES: usize = 5;
/// How long one write may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long states are still written when the agent ends.
const LAST_WRITES: Duration = Duration::from_secs(2);
/// Pauses while the server is away.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
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
    meters: Meters,
    /// What runs of an earlier agent are is no news.
    started: AtomicBool,
}

impl ClusterRecords {
    /// No records yet, of the node of that name. What is written is counted by `meters`.
    #[must_use]
    pub fn new(node: &str, meters: &Meters) -> Self {
        Self(Arc::new(Shared {
            node: node.to_owned(),
            queue: Mutex::new(Queue::new(node)),
            wake: Notify::new(),
            events: Arc::new(Events::new(node, meters)),
            meters: meters.clone(),
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
        let mut writer = Writer {
            shared: self.0,
            client,
            namespaces,
            pace: Pace::new(WRITES, Duration::from_secs(1)),
            pauses: Pauses::new(PAUSES.0, PAUSES.1, seed(MANAGER)),
            paused_until: None,
        };
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
}

impl Writer {
    async fn run(
        &mut self,
        mut records: impl Stream<Item = watcher::Result<Event<WatchedRecord>>> + Unpin,
        stop: &Notify,
    ) {
        let mut failing = false;
        loop {
            let due = self.shared.queue().due().map(|due| self.not_before(due));
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                () = stop.notified() => return,
                () = self.shared.wake.notified() => {}
                news = records.next() => match news {
                    Some(Ok(news)) => {
                        if std::mem::take(&mut failing) {
                            info!("the records of this node are watched again");
                        }
                        self.shared.queue().take(news, Instant::now());
                    }
                    Some(Err(error)) => {
                        if !std::mem::replace(&mut failing, true) {
                            warn!(%error, "cannot watch the records of this node; trying on");
                        }
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(due.into()) => {
                    self.one().await;
                }
            }
        }
    }

    /// The earliest moment at which what is due then may be written.
    fn not_before(&self, due: Instant) -> Instant {
        let free = self.pace.free_at(Instant::now());
        due.max(free).max(self.paused_until.unwrap_or(due))
    }

    /// Writes what is due, once. False when there is nothing.
    async fn one(&mut self) -> bool {
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
        let Some((name, step)) = next else { return false };
        self.pace.count(now);
        let outcome = match tokio::time::timeout(PATIENCE, self.ask(&name, &step)).await {
            Ok(answer) => outcome(answer),
            Err(_) => Outcome::Away,
        };
        let failed = match (&step, &outcome) {
            (Step::Delete { .. }, Outcome::Missing) => false,
            (_, outcome) => !matches!(outcome, Outcome::Done(_)),
        };
        if !matches!(step, Step::Read) {
            self.shared.meters.api_write(ApiObject::PodCapture, !failed);
        }
        let now = Instant::now();
        if matches!(outcome, Outcome::Away) {
            let pause = self.pauses.failed();
            debug!(?pause, "records cannot be written for the moment");
            self.paused_until = Some(now + pause);
        } else {
            self.pauses.reset();
            self.paused_until = None;
        }
        self.shared.queue().done(&name, step, outcome, now);
        true
    }

    async fn ask(&self, name: &Name, step: &Step) -> kube::Result<Option<WatchedRecord>> {
        let api: Api<WatchedRecord> = Api::namespaced(self.client.clone(), &name.namespace);
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        match step {
            Step::Read => api.get(&name.name).await.map(Some),
            Step::Create { object, .. } => {
                let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
                let body = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
                let request = kube::core::Request::new(api.resource_url())
                    .create(&params, body)
                    .map_err(kube::Error::BuildRequest)?;
                self.client.request(request).await.map(Some)
            }
            Step::Patch { patch, .. } => api.patch(&name.name, &params, &Patch::Merge(patch)).await.map(Some),
            Step::PatchStatus { patch, .. } => {
                api.patch_status(&name.name, &params, &Patch::Merge(patch)).await.map(Some)
            }
            Step::Delete { uid } => {
                let params = DeleteParams {
                    preconditions: uid
                        .clone()
                        .map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
                    ..DeleteParams::default()
                };
                api.delete(&name.name, &params).await.map(|_| None)
            }
        }
    }

    /// The agent ends: what states say now is still written, as far as it goes.
    async fn finish(&mut self) {
        let deadline = Instant::now() + LAST_WRITES;
        loop {
            let due = self.shared.queue().due().map(|due| self.not_before(due));
            let Some(due) = due.filter(|due| *due < deadline) else { return };
            tokio::time::sleep_until(due.into()).await;
            if let Ok(false) | Err(_) = tokio::time::timeout_at(deadline.into(), self.one()).await {
                return;
            }
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
            408 | 429 | 500.. => Outcome::Away,
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
