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
    use std::{
        io::{BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        pin::pin,
        time::Instant,
    };

    use k8s_openapi::api::core::v1::Namespace;
    use kube::Client;
    use tokio::time::timeout;

    use super::*;

    /// An API server that has nothing to list, and whose watches never say a word.
    fn serve(stream: TcpStream) -> std::io::Result<()> {
        const LIST: &str =
            r#"{"apiVersion":"v1","kind":"NamespaceList","metadata":{"resourceVersion":"1"},"items":[]}"#;
        let mut requests = BufReader::new(stream);
        let (mut line, mut asks_for) = (String::new(), String::new());
        while requests.read_line(&mut line)? > 0 {
            if line.starts_with("GET ") {
                asks_for.clone_from(&line);
            }
            if line.trim().is_empty() {
                let answer = if asks_for.contains("watch=true") {
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned()
                } else {
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{LIST}", LIST.len())
                };
                requests.get_mut().write_all(answer.as_bytes())?;
            }
            line.clear();
        }
        Ok(())
    }

    #[test]
    fn a_watch_that_says_nothing_is_listed_anew_when_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(|| serve(stream));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::try_from(kube::Config::new(server.parse().unwrap())).unwrap();
            let relist = Arc::new(Notify::new());
            let api = Api::<Namespace>::all(client);
            let mut news = pin!(watch(api, Config::default(), "node1", After::Resumed, Arc::clone(&relist)));
            for _ in 0..2 {
                let begun = timeout(Duration::from_secs(10), news.next()).await.unwrap();
                assert!(matches!(begun, Some(Ok(Event::Init))), "{begun:?}");
                let done = timeout(Duration::from_secs(10), news.next()).await.unwrap();
                assert!(matches!(done, Some(Ok(Event::InitDone))), "{done:?}");
                let silence = timeout(Duration::from_millis(300), news.next()).await;
                assert!(silence.is_err(), "{silence:?}");
                relist.notify_one();
            }
        });
    }

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
