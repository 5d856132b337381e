//! Objects of nodes, agents and pods that do not exist, made by the thousand: how podtap bears many of them is seen on
//! a real API server without the machines.
//!
//! kubectl would start once for each object, and measure itself; so one `kubectl proxy` stays, and many requests go through
//! it. Records are written as the agent of their node, since the API server takes them from nobody else.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, SOON, wait};
use crate::process::Process;
use crate::scratch::Scratch;

/// How long one answer may take.
const CALL: Duration = Duration::from_secs(30);
/// Where podtap's objects are.
const GROUP: &str = "/apis/podtap.dev/v1alpha1";

/// A change of one object.
#[derive(Clone, Debug)]
pub struct Call {
    method: &'static str,
    path: String,
    body: Value,
    /// As the agent of this node.
    node: Option<String>,
    /// A status that is as good as success.
    or: u16,
}

impl Call {
    /// Makes an object in a collection, such as `/api/v1/nodes`. One that is there already is left as it is.
    pub fn create(collection: &str, object: Value) -> Self {
        Self { method: "POST", path: collection.to_owned(), body: object, node: None, or: 409 }
    }

    /// Changes an object's status.
    pub fn status(collection: &str, name: &str, status: &Value) -> Self {
        let path = format!("{collection}/{name}/status");
        Self { method: "PATCH", path, body: json!({"status": status}), node: None, or: 200 }
    }

    /// Takes an object away. One that is not there is no error.
    pub fn delete(collection: &str, name: &str) -> Self {
        let body = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0});
        Self { method: "DELETE", path: format!("{collection}/{name}"), body, node: None, or: 404 }
    }
}

/// Makes many changes, some at a time, as the cluster's administrator.
#[derive(Debug)]
pub struct Bulk {
    address: SocketAddr,
    /// Whether records are taken from agents only.
    guarded: bool,
    _proxy: Process,
    _scratch: Scratch,
}

impl Bulk {
    /// For this cluster.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let scratch = Scratch::new("proxy")?;
        let said = scratch.path().join("said");
        let mut command = cluster.command(&["proxy", "--port=0", "--address=127.0.0.1"]);
        command.stdout(std::fs::File::create(&said)?).stderr(Stdio::null());
        let proxy = Process::start(&mut command)?;
        let address = wait("kubectl proxy", SOON, || {
            let said = std::fs::read_to_string(&said)?;
            Ok(said.trim().rsplit_once(' ').and_then(|(_, address)| address.parse().ok()))
        })?;
        let mut bulk = Self { address, guarded: false, _proxy: proxy, _scratch: scratch };
        let binding =
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/podtap-records";
        bulk.guarded = bulk.get(binding).is_ok();
        Ok(bulk)
    }

    /// The object or list at a path.
    pub fn get(&self, path: &str) -> Result<Value> {
        let call = Call { method: "GET", path: path.to_owned(), body: Value::Null, node: None, or: 200 };
        Ok(serde_json::from_slice(&self.connect()?.make(&call, false)?)?)
    }

    /// Makes all the changes, `at_once` at a time, and tells how long it took.
    pub fn run(&self, calls: impl IntoIterator<Item = Call>, at_once: usize) -> Result<Duration> {
        let begun = Instant::now();
        let left = Mutex::new(calls.into_iter().collect::<VecDeque<_>>());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let work = || {
            let mut connection = self.connect()?;
            while let Some(call) = next() {
                connection.make(&call, self.guarded)?;
            }
            anyhow::Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
        })?;
        Ok(begun.elapsed())
    }

    fn connect(&self) -> Result<Connection> {
        Connection::open(self.address)
    }
}

/// A kept connection; see RFC 9112.
#[derive(Debug)]
pub(crate) struct Connection(BufReader<TcpStream>);

impl Connection {
    /// To a server that speaks HTTP without TLS.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(CALL))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Makes one call and gives the answer's body.
    pub(crate) fn make(&mut self, call: &Call, guarded: bool) -> Result<Vec<u8>> {
        let (status, body) =
            self.exchange(call, guarded).with_context(|| format!("{} {}", call.method, call.path))?;
        let good = (200..300).contains(&status) || status == call.or;
        ensure!(good, "{} {}: {status}: {}", call.method, call.path, String::from_utf8_lossy(&body));
        Ok(body)
    }

    fn exchange(&mut self, call: &Call, guarded: bool) -> Result<(u16, Vec<u8>)> {
        let body = if call.body.is_null() { String::new() } else { call.body.to_string() };
        let kind = if call.method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let mut request = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n",
            call.method,
            call.path,
            body.len()
        );
        if let (Some(node), true) = (&call.node, guarded) {
            request.push_str("Impersonate-User: system:serviceaccount:podtap-system:podtap-agent\r\n");
            let key = "authentication.kubernetes.io%2Fnode-name";
            request.push_str(&format!("Impersonate-Extra-{key}: {node}\r\n"));
        }
        request.push_str("\r\n");
        request.push_str(&body);
        self.0.get_mut().write_all(request.as_bytes())?;

        let first = self.line()?;
        let status = first.split(' ').nth(1).context("no status")?.parse()?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse()?,
                Some(("transfer-encoding", "chunked")) => chunked = true,
                None if line.is_empty() => break,
                _ => {}
            }
        }
        let mut body = Vec::new();
        while chunked {
            let size = self.line()?;
            let size = usize::from_str_radix(size.trim(), 16).context("size of a chunk")?;
            self.read(size, &mut body)?;
            // The end of the chunk, or of the body, which has no trailer here.
            ensure!(self.line()?.is_empty(), "something behind a chunk");
            chunked = size > 0;
        }
        self.read(length, &mut body)?;
        Ok((status, body))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the connection ended");
        Ok(line.trim_end().to_owned())
    }

    fn read(&mut self, length: usize, into: &mut Vec<u8>) -> Result<()> {
        let before = into.len();
        into.resize(before + length, 0);
        Ok(self.0.read_exact(&mut into[before..])?)
    }
}

/// A run of a pod that does not exist, on a node that need not.
#[derive(Clone, Debug)]
pub struct FakeRun {
    /// Its namespace, and its PacketCapture's.
    pub namespace: String,
    /// The PacketCapture's name.
    pub capture: String,
    /// The PacketCapture's UID.
    pub request_uid: String,
    /// The pod's name.
    pub pod: String,
    /// The node.
    pub node: String,
    /// How long the record stays after the run's end.
    pub retention: String,
}

impl FakeRun {
    /// The record's name.
    pub fn record(&self) -> String {
        format!("{}-{}-bcdfg", self.capture, self.pod)
    }

    fn collection(&self) -> String {
        format!("{GROUP}/namespaces/{}/podcaptures", self.namespace)
    }

    /// Makes the record, as the node's agent.
    pub fn create(&self) -> Call {
        let labels = json!({
            "podtap.dev/pod": self.pod, "podtap.dev/capture-name": self.capture, "podtap.dev/node": self.node,
        });
        let settings = json!({
            "filter": "tcp port 80 or tcp port 443", "direction": "Both", "snapLength": 65556, "headersOnly": false,
            "sample": 1, "rateLimit": {}, "limits": {"bytes": 1u64 << 30}, "rotation": {"fileBytes": 100 << 20},
            "duration": "10m", "state": "Running", "retention": self.retention,
        });
        let record = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PodCapture",
            "metadata": {"name": self.record(), "namespace": self.namespace, "labels": labels},
            "spec": {
                "pod": self.pod, "podUID": format!("uid-of-{}", self.pod),
                "namespaceUID": "11111111-1111-4111-8111-111111111111", "request": "PacketCapture",
                "capture": self.capture, "requestUID": self.request_uid, "node": self.node, "settings": settings,
            },
        });
        Call { node: Some(self.node.clone()), ..Call::create(&self.collection(), record) }
    }

    /// Says how the run stands, as the node's agent: as much as one says that has been at it for a while.
    pub fn status(&self, state: &str, packets: u64) -> Call {
        let file = |number: u32| json!({"name": format!("{}_20261201T100000Z_{number:04}.pcapng", self.record()), "bytes": 104_857_600});
        let files: Vec<Value> = (0..10).map(file).collect();
        let direction =
            json!({"seen": packets, "matched": packets / 2, "captured": packets / 2, "bytes": packets * 500});
        let mut status = json!({
            "state": state, "reason": "TrafficSeen", "message": "Packets arrive.", "notes": [],
            "fromPod": direction, "toPod": direction, "drops": {"ring": 1, "rate": 0, "storage": 0},
            "sampledOut": 0, "truncated": 0, "beyondLimit": 0, "interface": "veth0123abcd", "attachMode": "Tcx",
            "files": files, "packets": packets, "bytes": packets * 1000, "size": "1000Mi", "dropped": 1,
            "startTime": "2026-12-01T10:00:00Z",
        });
        if ["Completed", "Stopped", "Failed", "Refused"].contains(&state) {
            status["endTime"] = json!(now());
        }
        let call = Call::status(&self.collection(), &self.record(), &status);
        Call { node: Some(self.node.clone()), ..call }
    }
}

/// Now, in whole seconds, as the API writes times.
fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
