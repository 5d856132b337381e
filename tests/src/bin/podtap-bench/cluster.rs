//! Rows 12 and 13: on a real API server, how soon a labelled pod is captured, and what is missed of a new one.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podtap_tests::blocks;
use podtap_tests::cluster::podtap::{AGENT, ATTACHED, CAPTURE};
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, RunningPod};
use podtap_tests::scratch::Scratch;
use serde_json::{Value, json};

use crate::attached;
use crate::bench::Bench;
use crate::kernel_cost::index;
use crate::report::{Judged, Measure, Row, Target};
use crate::tool::Tool;

/// Labels in a round.
const LABELS: usize = 3;
/// New pods in a round.
const PODS: usize = 5;
/// The node whose links are this host's.
const NODE: &str = "node1";

/// A namespace that may capture.
fn team(cluster: &Cluster) -> Result<Namespace<'_>> {
    let namespace = Namespace::make(cluster, "bench", &[])?;
    namespace.allow(50)?;
    Ok(namespace)
}

/// The project's cluster, there for as long as a row takes: it would disturb the others.
struct Own {
    cluster: Cluster,
    /// It was there before.
    stays: bool,
}

impl Own {
    fn up() -> Result<Self> {
        let stays = Cluster::get().is_ok();
        xtask(&["cluster", "up"])?;
        xtask(&["image"])?;
        let cluster = Cluster::with_podtap()?;
        ensure!(
            cluster.is_own(),
            "this row looks at links of {NODE}, which only the project's own cluster shares"
        );
        Ok(Self { cluster, stays })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if !self.stays
            && let Err(error) = xtask(&["cluster", "down"])
        {
            eprintln!("the cluster may be left: {error:#}");
        }
    }
}

/// Has what started this bench do something else, too.
fn xtask(arguments: &[&str]) -> Result<()> {
    let xtask = std::env::var_os("PODTAP_XTASK").context("to be started by `cargo xtask bench`")?;
    let status = Command::new(xtask).args(arguments).stdout(Stdio::null()).status()?;
    ensure!(status.success(), "cargo xtask {}: {status}", arguments.join(" "));
    Ok(())
}

/// Row 12.
pub(crate) fn label(bench: &mut Bench) -> Result<Row> {
    let own = Own::up()?;
    let cluster = &own.cluster;
    let namespace = team(cluster)?;
    namespace.run(&PodManifest::new("web").on(NODE))?;
    let mut proxy = Proxy::start(cluster)?;
    let path = format!("/api/v1/namespaces/{}/pods/web", namespace.name());
    let patch = |on: bool| json!({"metadata": {"labels": {(CAPTURE): on.then_some("true")}}});
    // The first capture tells which interface is the pod's.
    proxy.patch(&path, &patch(true))?;
    let record = namespace.wait_run("web", None, &ATTACHED)?;
    let interface = record["status"]["interface"].as_str().context("no interface")?;
    let interface = HashSet::from([index(interface)?]);
    let tapped = |wanted: bool| -> Result<Duration> {
        let start = Instant::now();
        loop {
            let (links, sockets) = attached::kinds(&interface)?;
            if (wanted && (links >= 2 || sockets >= 1)) || (!wanted && links + sockets == 0) {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < AGENT, "not {}", if wanted { "tapped" } else { "untapped" });
            thread::sleep(Duration::from_micros(500));
        }
    };
    let mut until = Measure::new("from label to tap", "ms", Judged::Median, Target::AtMost(200.0));
    let mut answer = Measure::new("of which the API server's answer", "ms", Judged::Median, Target::Told);
    for round in 0..bench.rounds() * LABELS {
        proxy.patch(&path, &patch(false))?;
        tapped(false)?;
        // Not at the same moment of the agent's second each time.
        thread::sleep(Duration::from_millis(700 + 137 * (round as u64 % 8)));
        let start = Instant::now();
        proxy.patch(&path, &patch(true))?;
        answer.push(Tool::Podtap, start.elapsed().as_secs_f64() * 1e3);
        tapped(true)?;
        let took = start.elapsed().as_secs_f64() * 1e3;
        bench.progress(&format!("tapped after {took:.1} ms"));
        until.push(Tool::Podtap, took);
    }
    let remarks = vec!["A running pod's label is set by one PATCH; the clock runs from its first byte to the tap being attached in both directions, looked at each 0.5 ms.".to_owned()];
    bench.row("label", "A label, on a real API server", vec![until, answer], remarks)
}

/// Row 13.
pub(crate) fn new_pod(bench: &mut Bench) -> Result<Row> {
    let own = Own::up()?;
    let cluster = &own.cluster;
    let namespace = team(cluster)?;
    let listen = "while true; do echo hello | nc -l -p 8080; done";
    let server = namespace.run(&PodManifest::new("server").on("node2").shell(listen))?;
    let mut missed =
        Measure::new("pods whose first packets are missing", "of 1", Judged::Worst, Target::AtMost(0.0));
    for number in 0..bench.rounds() * PODS {
        let name = format!("new-{number}");
        let call = format!("nc {} 8080 </dev/null; sleep 3600", server.address);
        let manifest = PodManifest::new(&name).on(NODE).label(CAPTURE, "true").shell(&call);
        let pod = namespace.run(&manifest)?;
        namespace.wait_record("its call to be captured", AGENT, |record| {
            record["spec"]["pod"] == name.as_str() && record["status"]["packets"].as_u64() >= Some(4)
        })?;
        namespace.kubectl(&["label", "pod", &name, &format!("{CAPTURE}-")])?;
        let record = namespace.wait_run(&name, None, &["Stopped"])?;
        let complete = from_the_first(cluster, &record, &pod, &server)?;
        bench.progress(&format!("{name}: {}", if complete { "complete" } else { "first packets MISSING" }));
        missed.push(Tool::Podtap, f64::from(u8::from(!complete)));
        namespace.delete_pod(&name)?;
    }
    let remarks = vec!["Pods are made with the label, and their first deed is to open a connection. Their question for the gateway's address and their SYN must be in the file.".to_owned()];
    bench.row("new-pod", "New labelled pods, on a real API server", vec![missed], remarks)
}

/// Whether the pod's first ARP request and its SYN are in its files, in that order.
fn from_the_first(cluster: &Cluster, record: &Value, pod: &RunningPod, server: &RunningPod) -> Result<bool> {
    let bytes = |pod: &RunningPod| match pod.address {
        std::net::IpAddr::V4(address) => address.octets().to_vec(),
        std::net::IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (own, other) = (bytes(pod), bytes(server));
    let scratch = Scratch::new("bench-new-pod")?;
    let mut packets = Vec::new();
    for file in cluster.fetch(record, &scratch)? {
        packets.extend(blocks::read(&file)?.packets.into_iter().filter(|packet| packet.outbound));
    }
    let asks = packets.iter().position(|packet| {
        let data = &packet.data;
        data.len() >= 42 && data[12..14] == [8, 6] && data[28..32] == own[..] && data[38..42] != own[..]
    });
    let calls = packets.iter().position(|packet| {
        let data = &packet.data;
        let ours = data.len() >= 54 && data[12..14] == [8, 0] && data[23] == 6 && data[26..30] == own[..];
        ours && data[30..34] == other[..] && data[47] & 0x12 == 0x02
    });
    Ok(asks.zip(calls).is_some_and(|(asks, calls)| asks < calls))
}

/// A kept connection to the API server, through `kubectl proxy`, which adds who we are.
struct Proxy {
    process: Child,
    stream: BufReader<TcpStream>,
}

impl Proxy {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut process = cluster.command(&["proxy", "--port=0"]).stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().rsplit(' ').next().context("kubectl proxy said nothing")?;
        let stream = TcpStream::connect(address).with_context(|| format!("kubectl proxy said {line:?}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { process, stream: BufReader::new(stream) })
    }

    /// A merge patch; returns with the server's answer.
    fn patch(&mut self, path: &str, patch: &Value) -> Result<()> {
        let body = patch.to_string();
        let request = format!(
            "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/merge-patch+json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        ensure!(line.contains(" 200 "), "PATCH {path}: {line}");
        // The answer is read to its end, which it tells in one of two ways.
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let header = line.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            chunked |= header == "transfer-encoding: chunked";
        }
        if !chunked {
            return self.skip(length);
        }
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim(), 16).context("a chunk's size")?;
            self.skip(size + 2)?;
            if size == 0 {
                return Ok(());
            }
        }
    }

    fn skip(&mut self, bytes: usize) -> Result<()> {
        let mut skipped = vec![0; bytes];
        Ok(self.stream.read_exact(&mut skipped)?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
