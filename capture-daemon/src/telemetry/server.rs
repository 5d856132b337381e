//! The HTTP servers: numbers and health for anybody who reaches one address, health alone at another that only the node
//! reaches, so that nobody can have the agent taken for dead.
//!
//! Each has a thread of its own. A connection has one request and little time; there are so many at once, and further
//! ones wait in the kernel until it is their turn.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{net::TcpStream, sync::Semaphore, time};
use tracing::{info, warn};

use super::{Telemetry, metrics};

/// A connection is closed after this long, whatever it is doing.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most connections at once.
const MOST: usize = 64;
/// The longest request header that is read, in bytes.
const LONGEST_HEADER: usize = 16 << 10;
/// Pause after the system had no connection to give: it has run out of something.
const PAUSE: Duration = Duration::from_millis(200);

const TEXT: &str = "text/plain; charset=utf-8";

/// Why nobody can ask.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The address cannot be listened at.
    #[error("cannot listen at {key} {address}: {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the HTTP thread: {0}")]
    Thread(#[source] io::Error),
}

/// What is answered at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pages {
    /// `/metrics`, `/healthz` and `/readyz`.
    All,
    /// `/healthz` and `/readyz`.
    Health,
}

impl Pages {
    /// The key of the configuration that says where.
    const fn key(self) -> &'static str {
        match self {
            Self::All => "httpAddress",
            Self::Health => "healthAddress",
        }
    }

    const fn paths(self) -> &'static str {
        match self {
            Self::All => "there are /metrics, /healthz and /readyz\n",
            Self::Health => "there are /healthz and /readyz\n",
        }
    }
}

impl Telemetry {
    /// Tells numbers and health at `address` from now on until the process ends.
    ///
    /// # Errors
    /// The address is in use, or the system has no thread to give.
    pub fn serve(&self, address: SocketAddr) -> Result<(), ServeError> {
        self.start(Pages::All, address).map(drop)
    }

    /// Tells health alone at `address`, whatever is going on at the other one.
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    pub fn serve_health(&self, address: SocketAddr) -> Result<(), ServeError> {
        self.start(Pages::Health, address).map(drop)
    }

    /// Begins, and says where: port 0 is any that is free.
    fn start(&self, pages: Pages, address: SocketAddr) -> Result<SocketAddr, ServeError> {
        let failed = |source| ServeError::Listen { key: pages.key(), address, source };
        let listener = TcpListener::bind(address).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ServeError::Thread)?;
        let listener = {
            let _in_runtime = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(failed)?
        };
        let telemetry = self.clone();
        thread::Builder::new()
            .name(if pages == Pages::All { "http" } else { "health" }.into())
            .spawn(move || runtime.block_on(accept(listener, telemetry, pages)))
            .map_err(ServeError::Thread)?;
        self.inner.served.store(true, Relaxed);
        info!(address = %local, ?pages, "numbers and health are told");
        Ok(local)
    }
}

async fn accept(listener: tokio::net::TcpListener, telemetry: Telemetry, pages: Pages) {
    let room = Arc::new(Semaphore::new(MOST));
    let mut told = false;
    // It is never closed.
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "cannot take a connection; trying on");
                }
                time::sleep(PAUSE).await;
                continue;
            }
        };
        let telemetry = telemetry.clone();
        tokio::spawn(async move {
            let _ = time::timeout(PATIENCE, converse(stream, telemetry, pages)).await;
            drop(place);
        });
    }
}

async fn converse(stream: TcpStream, telemetry: Telemetry, pages: Pages) {
    let answer = service_fn(|request: Request<Incoming>| {
        let answer = telemetry.answer(&request, pages);
        async move { Ok::<_, Infallible>(answer) }
    });
    // A client that hangs up, or speaks something else, is its own affair.
    let _ = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(LONGEST_HEADER)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

impl Telemetry {
    fn answer<B>(&self, request: &Request<B>, pages: Pages) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET only\n".into());
            refused.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match request.uri().path() {
            "/metrics" if pages == Pages::All => match self.reading().text() {
                Ok(text) => page(StatusCode::OK, metrics::CONTENT_TYPE, text),
                Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            },
            "/healthz" => judged(&self.lost()),
            "/readyz" => judged(&self.missing()),
            _ => page(StatusCode::NOT_FOUND, TEXT, pages.paths().into()),
        }
    }
}

/// `ok`, or what is wrong, one thing a line.
fn judged(wrong: &[String]) -> Response<Full<Bytes>> {
    if wrong.is_empty() {
        page(StatusCode::OK, TEXT, "ok\n".into())
    } else {
        page(StatusCode::SERVICE_UNAVAILABLE, TEXT, wrong.join("\n") + "\n")
    }
}

fn page(status: StatusCode, content: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut page = Response::new(Full::from(text));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    page
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{IpAddr, Ipv4Addr, TcpStream},
        time::Instant,
    };

    use super::*;
    use crate::{datapath::AttachMode, pulse::Pulse, telemetry::Snapshot};

    const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    /// A served agent, and where.
    fn served() -> (Telemetry, SocketAddr) {
        let telemetry = Telemetry::default();
        let address = telemetry.start(Pages::All, ANY).unwrap();
        (telemetry, address)
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE * 3)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    #[test]
    fn readiness_comes_with_all_its_parts_and_goes_with_the_disk() {
        let (telemetry, address) = served();
        let waiting = get(address, "/readyz");
        assert!(waiting.starts_with("HTTP/1.1 503 ") && waiting.contains("not listed"), "{waiting}");
        telemetry.loaded(AttachMode::Tcx);
        telemetry.listed();
        telemetry.write(Snapshot::begin);
        let ready = get(address, "/readyz");
        assert!(ready.starts_with("HTTP/1.1 200 ") && ready.ends_with("\r\n\r\nok\n"), "{ready}");
        telemetry.write(|snapshot| snapshot.unwritable = Some("why"));
        assert!(get(address, "/readyz").contains("takes nothing: why"));
        assert!(get(address, "/healthz").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn a_thread_that_has_not_begun_is_not_missed() {
        let (telemetry, address) = served();
        telemetry.watch(Pulse::new("engine"));
        assert!(get(address, "/healthz").ends_with("ok\n"));
    }

    #[test]
    fn only_what_is_there_can_be_had_and_only_read() {
        let (_telemetry, address) = served();
        assert!(get(address, "/").starts_with("HTTP/1.1 404 "));
        assert!(get(address, "/metrics/x").starts_with("HTTP/1.1 404 "));
        let post = ask(address, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET, HEAD"), "{post}");
        let head = ask(address, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(head.contains(metrics::CONTENT_TYPE));
    }

    #[test]
    fn health_is_told_whatever_becomes_of_the_other_address() {
        let (telemetry, address) = served();
        let health = telemetry.start(Pages::Health, ANY).unwrap();
        let crowded = || {
            let mut held: Vec<TcpStream> =
                (0..MOST + MOST / 2).map(|_| TcpStream::connect(address).unwrap()).collect();
            for stream in &mut held {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ").unwrap();
            }
            held
        };
        // Whoever had to wait for a place at the other address would wait until its patience ends, each time. A machine
        // that is busy with something else does not make every time late.
        let in_time = || {
            let since = Instant::now();
            let _held = crowded();
            for _ in 0..10 {
                assert!(get(health, "/healthz").ends_with("ok\n"));
                assert!(get(health, "/readyz").starts_with("HTTP/1.1 503 "));
            }
            since.elapsed() < PATIENCE
        };
        assert!((0..5).any(|_| in_time()), "health waits for the other address");
        assert!(get(health, "/metrics").starts_with("HTTP/1.1 404 "));
        // Nobody keeps a place for long, and whoever waits gets one.
        let _held = crowded();
        assert!(get(address, "/metrics").starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn an_address_in_use_is_said() {
        let (_telemetry, address) = served();
        let error = Telemetry::default().serve(address).unwrap_err().to_string();
        assert!(error.contains("httpAddress") && error.contains(&address.to_string()), "{error}");
    }

    #[test]
    fn nothing_is_written_for_nobody() {
        Telemetry::default().write(|_| panic!("nobody can ask"));
    }
}
