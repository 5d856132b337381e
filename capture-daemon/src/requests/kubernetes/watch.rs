//! Watches that go on whatever happens to the server.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        utils::Backoff,
        watcher::{self, Config, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::pace::{Pauses, seed};

/// Pauses after errors.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Objects a page of a list: what is held at once of a large cluster.
const PAGE: u32 = 100;

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.failed())
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        Pauses::reset(self);
    }
}

/// News of the objects: first a list, then changes, after errors from where it was, or a list again.
pub(super) fn watch<K>(
    api: Api<K>,
    config: Config,
    node: &str,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config.page_size(PAGE)).backoff(Pauses::new(PAUSES.0, PAUSES.1, seed(node)))
}

/// As [`watch`], and begins with a list after every error, and whenever `relist` says so.
pub(super) fn watch_anew<K>(
    api: Api<K>,
    config: Config,
    node: &str,
    relist: Arc<Notify>,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let begin = move || -> BoxStream<'static, watcher::Result<Event<K>>> {
        watcher(api.clone(), config.clone().page_size(PAGE)).boxed()
    };
    let news = stream::unfold(
        (begin, relist, None),
        |(begin, relist, current): (_, _, Option<BoxStream<'static, _>>)| async move {
            let mut current = current.unwrap_or_else(&begin);
            let news = loop {
                tokio::select! {
                    news = current.next() => break news?,
                    () = relist.notified() => current = begin(),
                }
            };
            let current = news.is_ok().then_some(current);
            Some((news, (begin, relist, current)))
        },
    );
    news.backoff(Pauses::new(PAUSES.0, PAUSES.1, seed(node)))
}
