//! The loop that hears of objects and tells the engine what follows.

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use capture_api::{GoDuration, Refusal, reasons};
use futures_util::{FutureExt, StreamExt, stream, stream::BoxStream, stream::SelectAll};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, Resource,
    api::ListParams,
    core::PartialObjectMeta,
    runtime::watcher::{Config, Error, Event},
};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::{
    Options,
    contact::{Channel, Contact},
    events::{Events, pointless},
    late::Late,
    objects::{KnownNamespace, KnownPod, KnownPolicy, Name, WatchedCapture, WatchedPod, WatchedPolicy},
    store::{NamespaceUids, Store},
    watch::{After, watch},
};
use crate::{
    requests::{changes::Changes, desired::Accepted},
    session::wanted::RequestEvent,
    telemetry::Watched,
};

/// How often the server is asked whether it is there, unless patience is shorter.
const PROBE: Duration = Duration::from_secs(30);
/// How often the time without it is looked at.
const TICK: Duration = Duration::from_secs(1);
/// How much news is taken over before what follows is worked out.
const MOST_AT_ONCE: usize = 1000;

type Told<K> = Result<Event<K>, Error>;

/// Something was heard.
enum News {
    Pod(Told<WatchedPod>),
    Capture(Told<WatchedCapture>),
    Policy(Told<WatchedPolicy>),
    Namespace(Told<PartialObjectMeta<Namespace>>),
    Probe(Result<(), String>),
}

/// What is known, and what was told of it.
pub(super) struct Source {
    watches: SelectAll<BoxStream<'static, News>>,
    store: Store,
    changes: Changes,
    contact: Contact,
    options: Options,
    accepted: Accepted,
    late: Late,
    namespaces: NamespaceUids,
    events: Arc<Events>,
    /// Have each kind listed anew.
    relist: [Arc<Notify>; Watched::ALL.len()],
    /// All captures are forbidden because the server is away.
    away: Option<Refusal>,
    listed: bool,
}

impl Source {
    pub(super) fn new(
        client: Client,
        options: Options,
        namespaces: NamespaceUids,
        events: Arc<Events>,
    ) -> Self {
        let relist = <[Arc<Notify>; Watched::ALL.len()]>::default();
        let [for_pods, for_captures, for_policies, for_spaces] = relist.clone();
        let node = options.node.as_str();
        let own = Config::default().fields(&format!("spec.nodeName={node}"));
        let all = Config::default;
        // Whose an address is must be known for sure after an error.
        let pods = watch(Api::all(client.clone()), own, node, After::Anew, for_pods);
        let captures = watch(Api::all(client.clone()), all(), node, After::Resumed, for_captures);
        let policies = watch(Api::all(client.clone()), all(), node, After::Resumed, for_policies);
        let spaces = Api::<PartialObjectMeta<Namespace>>::all(client.clone());
        let spaces = watch(spaces, all(), node, After::Resumed, for_spaces);
        let pause = PROBE.min(options.patience / 3).max(TICK);
        let probes = stream::unfold((client, pause), |(client, pause)| async move {
            tokio::time::sleep(pause).await;
            Some((News::Probe(probe(&client, pause).await), (client, pause)))
        });
        let watches = stream::select_all([
            pods.map(News::Pod).boxed(),
            captures.map(News::Capture).boxed(),
            policies.map(News::Policy).boxed(),
            spaces.map(News::Namespace).boxed(),
            probes.boxed(),
        ]);
        Self {
            watches,
            store: Store::default(),
            changes: Changes::default(),
            contact: Contact::default(),
            accepted: options.runs.iter().map(|(key, time)| (key.clone(), *time)).collect(),
            options,
            late: Late::default(),
            namespaces,
            events,
            relist,
            away: None,
            listed: false,
        }
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(mut self, mut deliver: impl FnMut(RequestEvent)) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let mut changed = tokio::select! {
                Some(news) = self.watches.next() => self.take(news),
                _ = tick.tick() => false,
            };
            // What else is there already: a burst is worked out once.
            for _ in 0..MOST_AT_ONCE {
                let Some(Some(news)) = self.watches.next().now_or_never() else { break };
                changed |= self.take(news);
            }
            changed |= self.look_whether_away();
            if !self.store.listed() || !changed && self.listed {
                continue;
            }
            self.tell().into_iter().for_each(&mut deliver);
            if !std::mem::replace(&mut self.listed, true) {
                info!("pods, captures, policies and namespaces are known");
                deliver(RequestEvent::Listed);
            }
        }
    }

    /// What is to be told of what is known now.
    fn tell(&mut self) -> Vec<RequestEvent> {
        let Options { defaults, caps, runs, .. } = &self.options;
        let changes = &self.changes;
        let (mut wanted, without_pods) =
            self.store.wanted(&mut self.accepted, defaults, caps, self.away.as_ref());
        let now = (Instant::now(), Timestamp::now());
        self.late.judge(&mut wanted, now, |key| changes.told(key) || runs.contains_key(key));
        for capture in &without_pods {
            self.events.tell(pointless(capture));
        }
        self.changes.update(wanted)
    }

    /// Takes news over. True if anything may follow.
    fn take(&mut self, news: News) -> bool {
        match news {
            News::Pod(told) => {
                let Some(event) = self.heard(Watched::Pods, told) else {
                    self.options.pods.set_live(false);
                    return false;
                };
                let complete = matches!(event, Event::InitDone);
                let changed = self.store.pods.take(event, |pod| Name::of(pod.meta()), KnownPod::from);
                if self.store.pods.listed() && (changed || complete) {
                    self.options.pods.told(self.store.claims());
                }
                if complete {
                    self.options.pods.set_live(true);
                }
                changed
            }
            News::Capture(told) => {
                let Some(event) = self.heard(Watched::Captures, told) else { return false };
                if self.listed
                    && let Event::Apply(capture) | Event::InitApply(capture) = &event
                    && let uid = capture.meta().uid.as_deref().unwrap_or_default()
                    && !self.store.captures.knows(&Name::of(capture.meta()), uid)
                {
                    self.late.heard(uid.to_owned(), Instant::now());
                }
                self.store.captures.take(event)
            }
            News::Policy(told) => {
                let Some(event) = self.heard(Watched::Policies, told) else { return false };
                let changed =
                    self.store.policies.take(event, |policy| Name::of(policy.meta()), KnownPolicy::from);
                if changed {
                    self.store.complain_of_policies();
                }
                changed
            }
            News::Namespace(told) => {
                let Some(event) = self.heard(Watched::Namespaces, told) else { return false };
                let changed = self.store.namespaces.take(
                    event,
                    |namespace| Name::of(&namespace.metadata),
                    |namespace| KnownNamespace::from(namespace.metadata),
                );
                if changed {
                    let uids = self.store.namespace_uids();
                    *self.namespaces.lock().unwrap_or_else(PoisonError::into_inner) = uids;
                }
                changed
            }
            News::Probe(Ok(())) => {
                if self.contact.failing(Instant::now()).is_some() {
                    // A watch may wait for minutes on a connection that the network has forgotten. Whatever was missed,
                    // addresses of pods above all, is heard now.
                    self.relist.iter().for_each(|kind| kind.notify_one());
                }
                self.contact.good(Channel::Probe);
                false
            }
            News::Probe(Err(why)) => {
                self.options.pods.set_live(false);
                if self.contact.bad(Channel::Probe, Instant::now()) {
                    warn!(why, "the API server does not answer; captures go on");
                }
                false
            }
        }
    }

    fn heard<K>(&mut self, watched: Watched, told: Told<K>) -> Option<Event<K>> {
        let (channel, meters) = (Channel::Watch(watched), &self.options.meters);
        match told {
            Ok(event) => {
                // A list that begins has not been answered yet.
                if !matches!(event, Event::Init) {
                    self.contact.good(channel);
                }
                if matches!(event, Event::InitDone) {
                    meters.api_list(watched);
                }
                Some(event)
            }
            Err(error) => {
                meters.api_watch_error(watched, has_expired(&error));
                if self.contact.bad(channel, Instant::now()) {
                    warn!(resource = watched.name(), %error, "a watch of the API server failed; trying on");
                }
                None
            }
        }
    }

    /// Whether the server has been away for too long. True if that is new.
    fn look_whether_away(&mut self) -> bool {
        let patience = self.options.patience;
        let away = self.contact.failing(Instant::now()).is_some_and(|failing| failing >= patience);
        if away == self.away.is_some() {
            return false;
        }
        self.away = away.then(|| {
            Refusal::new(
                reasons::API_SERVER_UNREACHABLE,
                format!(
                    "The agent has been cut off from the API server for {}: nobody could stop a capture any more.",
                    GoDuration(patience)
                ),
            )
        });
        if away {
            warn!(?patience, "cut off from the API server for too long: all captures are ended");
        } else {
            info!("the API server answers again: captures are allowed");
        }
        true
    }
}

/// Whether the server no longer knows what came after the last news (410). A list follows.
fn has_expired(error: &Error) -> bool {
    let status = match error {
        Error::WatchError(status) => status,
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status)) => status,
        _ => return false,
    };
    status.code == 410
}

/// Asks something small that needs a permission: a server that no longer knows this agent is as good as none.
async fn probe(client: &Client, patience: Duration) -> Result<(), String> {
    let policies: Api<PartialObjectMeta<capture_api::CapturePolicy>> = Api::all(client.clone());
    let params = ListParams { resource_version: Some("0".into()), ..ListParams::default().limit(1) };
    match tokio::time::timeout(patience, policies.list(&params)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {patience:?}")),
    }
}
