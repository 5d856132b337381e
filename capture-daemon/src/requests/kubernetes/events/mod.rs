//! Events of the API server (`kubectl describe`, `kubectl get events`), on the pod and on the PacketCapture: a run began,
//! ended, was refused, or lost packets. They are told once and kept nowhere: records say the same, and stay.

mod told;
mod waiting;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::{Api, Client, api::PostParams};
use tokio::sync::Notify;
use tracing::{debug, warn};

pub(super) use self::told::{Told, news, pointless, turned_away};
use self::{
    told::event,
    waiting::{One, Waiting},
};
use super::{
    pace::{Pace, Pauses, seed},
    store::NamespaceUids,
};
use crate::telemetry::{ApiObject, Meters};

/// The most events at once, and how many follow: ten in any ten seconds.
const PACE: (usize, Duration) = (10, Duration::from_secs(10));
/// So often one is tried that the server fails to take.
const TRIES: u32 = 3;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses while the server is away.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Events that wait to be told.
#[derive(Debug)]
pub(super) struct Events {
    node: String,
    waiting: Mutex<Waiting>,
    wake: Notify,
    meters: Meters,
}

impl Events {
    pub(super) fn new(node: &str, meters: &Meters) -> Self {
        Self { node: node.to_owned(), waiting: Mutex::default(), wake: Notify::new(), meters: meters.clone() }
    }

    /// Has it told soon, if there is room.
    pub(super) fn tell(&self, told: Told) {
        let mut waiting = self.waiting();
        for regarding in told.regarding.clone() {
            let namespace = regarding.namespace.clone().unwrap_or_default();
            if !waiting.put(&namespace, One { told: told.clone(), regarding, tries: 0 }) {
                debug!(namespace, reason = told.reason, "an event is left out: too many wait");
            }
        }
        drop(waiting);
        self.wake.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells them, until it is dropped.
    pub(super) async fn run(self: Arc<Self>, client: Client, namespaces: NamespaceUids) {
        let mut pace = Pace::new(PACE.0, PACE.1);
        let mut pauses = Pauses::new(PAUSES.0, PAUSES.1, seed(&self.node));
        loop {
            let now = Instant::now();
            let next = self.waiting().next(now);
            let Some((namespace, mut one)) = next else {
                let due = self.waiting().due(now);
                let until = due.unwrap_or_else(|| now + Duration::from_secs(3600));
                // In vain or not, it is looked again.
                let _ = tokio::time::timeout_at(until.into(), self.wake.notified()).await;
                continue;
            };
            let known = namespaces.lock().unwrap_or_else(PoisonError::into_inner).get(&namespace).cloned();
            let told = &one.told;
            if known.is_none() || told.namespace_uid.as_ref().is_some_and(|uid| known.as_ref() != Some(uid)) {
                continue;
            }
            let event = event(told, &one.regarding, &self.node, Timestamp::now());
            let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
            tokio::time::sleep_until(pace.free_at(Instant::now()).into()).await;
            pace.count(Instant::now());
            let params = PostParams::default();
            let answer = tokio::time::timeout(PATIENCE, api.create(&params, &event)).await;
            self.meters.api_write(ApiObject::Event, matches!(answer, Ok(Ok(_))));
            let reason = &one.told.reason;
            let why = match answer {
                Ok(Ok(_)) => {
                    pauses.reset();
                    self.waiting().taken(&namespace);
                    continue;
                }
                Ok(Err(kube::Error::Api(status))) => match status.code {
                    // A namespace that is going away takes no events.
                    _ if status.code == 404 || status.message.contains("being terminated") => {
                        debug!(namespace, reason, "an event is not taken");
                        continue;
                    }
                    408 | 429 | 503 => {
                        self.waiting().again(&namespace, one, Instant::now());
                        tokio::time::sleep(pauses.failed()).await;
                        continue;
                    }
                    500.. => status.message.clone(),
                    _ => {
                        warn!(namespace, reason, why = status.message, "an event is not taken");
                        continue;
                    }
                },
                Ok(Err(_)) => {
                    // There is no server.
                    self.waiting().again(&namespace, one, Instant::now());
                    tokio::time::sleep(pauses.failed()).await;
                    continue;
                }
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            one.tries += 1;
            if one.tries < TRIES {
                self.waiting().again(&namespace, one, Instant::now());
            } else {
                warn!(namespace, reason, why, "the API server fails to take an event; it is given up");
                self.waiting().given_up(&namespace, Instant::now());
            }
        }
    }
}
