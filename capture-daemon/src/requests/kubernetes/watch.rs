//! Watches that go on whatever happens to the server.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream, stream::BoxStream};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Config, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use super::pace::{Pauses, seed};

/// Pauses after errors.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Objects a page of a list: what is held at once of a large cluster. Users can make objects of a megabyte and more.
const PAGE: u32 = 25;

/// What follows an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// What has changed since the last news; a list when the server does not know that any more.
    Resumed,
    /// A list.
    Anew,
}

/// News of the objects: first a list, then changes. A list again whenever `relist` says so.
pub(super) fn watch<K>(
    api: Api<K>,
    config: Config,
    node: &str,
    after_errors: After,
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
        move |(begin, relist, current): (_, _, Option<BoxStream<'static, _>>)| async move {
            let mut current = current.unwrap_or_else(&begin);
            let news = loop {
                tokio::select! {
                    news = current.next() => break news?,
                    () = relist.notified() => current = begin(),
                }
            };
            let current = (news.is_ok() || after_errors == After::Resumed).then_some(current);
            Some((news, (begin, relist, current)))
        },
    );
    patient(news, Pauses::new(PAUSES.0, PAUSES.1, seed(node)))
}

/// Pauses after errors, longer and longer until an object or the end of a list is heard: that a list begins says nothing
/// yet of the server.
fn patient<K: Send + 'static>(
    news: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    pauses: Pauses,
) -> BoxStream<'static, watcher::Result<Event<K>>> {
    let patient = stream::unfold(
        (news.boxed(), pauses, None::<Duration>),
        |(mut news, mut pauses, pause)| async move {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let one = news.next().await?;
            let pause = match &one {
                Ok(Event::Init) => None,
                Ok(_) => {
                    pauses.reset();
                    None
                }
                Err(_) => Some(pauses.failed()),
            };
            Some((one, (news, pauses, pause)))
        },
    );
    patient.boxed()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn lists_that_begin_and_fail_are_tried_less_and_less_often() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let attempts = stream::iter(0..)
            .flat_map(|_| stream::iter([Ok(Event::<()>::Init), Err(watcher::Error::NoResourceVersion)]));
        let pauses = Pauses::new(Duration::from_millis(10), Duration::from_secs(1), seed("node1"));
        let begun = Instant::now();
        let heard = runtime.block_on(patient(attempts, pauses).take(9).collect::<Vec<_>>());
        // Four pauses: 10, 20, 40 and 80 ms, a quarter less at least.
        assert!(begun.elapsed() >= Duration::from_millis(112), "{:?}", begun.elapsed());
        assert_eq!(heard.len(), 9);
    }

    #[test]
    fn what_is_heard_makes_the_next_pause_short_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let error = || Err(watcher::Error::NoResourceVersion);
        let attempts = stream::iter([error(), Ok(Event::Apply(())), error(), Ok(Event::InitDone), error()]);
        let pauses = Pauses::new(Duration::from_millis(10), Duration::from_secs(60), seed("node1"));
        let begun = Instant::now();
        runtime.block_on(patient(attempts, pauses).collect::<Vec<_>>());
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
