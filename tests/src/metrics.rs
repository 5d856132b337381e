//! The agent's HTTP server, asked over a socket like anybody would, and its OpenMetrics text, read strictly.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// An address of this host that nobody listens at, and that nobody gets for a connection of his: its port is below those
/// that the kernel gives away.
pub fn free_address() -> Result<SocketAddr> {
    const PORTS: std::ops::Range<u32> = 20_000..30_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Other processes begin elsewhere.
    let first = std::process::id().wrapping_mul(61);
    for _ in PORTS {
        let number = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % (PORTS.end - PORTS.start);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, u16::try_from(PORTS.start + number)?));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    bail!("all ports are taken")
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// The header `Content-Type`.
    pub content_type: String,
    /// What follows the header.
    pub body: String,
}

/// Asks for a path.
pub fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("after {text:?}"))?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the header")?;
    let mut lines = head.lines();
    let first = lines.next().context("no answer")?;
    let status = first.split(' ').nth(1).context("no status")?.parse()?;
    let content = lines.find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-type").then(|| value.to_owned())
    });
    Ok(Answer { status, content_type: content.unwrap_or_default(), body: body.to_owned() })
}

/// Asks until the answer has that status; an error tells the last one.
pub fn wait_for_status(address: SocketAddr, path: &str, status: u16, timeout: Duration) -> Result<Answer> {
    let deadline = Instant::now() + timeout;
    loop {
        let answer = get(address, path);
        match &answer {
            Ok(answer) if answer.status == status => return Ok(answer.clone()),
            _ if Instant::now() > deadline => bail!("waiting for {status} of {path}: {answer:?}"),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// All metrics of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// By the family's name.
    pub families: BTreeMap<String, Family>,
}

/// One metric.
#[derive(Clone, Debug, Default)]
pub struct Family {
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: String,
    /// Its unit, if any.
    pub unit: String,
    /// What it is.
    pub help: String,
    /// Its values.
    pub samples: Vec<Sample>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name with the suffix of its kind.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// Asks for them and reads them.
    pub fn scrape(address: SocketAddr) -> Result<Self> {
        let answer = get(address, "/metrics")?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(
            answer.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "{}",
            answer.content_type
        );
        Self::parse(&answer.body)
    }

    /// Asks until `told` says so; an error shows all that is not 0.
    pub fn scrape_until(
        address: SocketAddr,
        what: &str,
        timeout: Duration,
        told: impl Fn(&Self) -> bool,
    ) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        loop {
            let metrics = Self::scrape(address)?;
            if told(&metrics) {
                return Ok(metrics);
            }
            if Instant::now() > deadline {
                let samples: Vec<_> = metrics.samples().filter(|sample| sample.value != 0.0).collect();
                bail!("waiting for {what}: {samples:?}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Reads the text, strictly: one family after the other, each said once, no sample twice, an end.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.strip_suffix("# EOF\n").context("no end")?;
        let mut metrics = Self::default();
        let mut name = String::new();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            (|| -> Result<()> {
                if let Some(comment) = line.strip_prefix("# ") {
                    let (keyword, rest) = comment.split_once(' ').context("no keyword")?;
                    let (of, value) = rest.split_once(' ').context("no value")?;
                    if of != name {
                        ensure!(!metrics.families.contains_key(of), "a second time");
                        of.clone_into(&mut name);
                    }
                    let family = metrics.families.entry(name.clone()).or_default();
                    ensure!(family.samples.is_empty(), "after samples");
                    let field = match keyword {
                        "HELP" => &mut family.help,
                        "TYPE" => &mut family.kind,
                        "UNIT" => &mut family.unit,
                        _ => bail!("unknown keyword"),
                    };
                    ensure!(field.is_empty(), "twice");
                    value.clone_into(field);
                    return Ok(());
                }
                let sample = sample(line)?;
                let family = metrics.families.get_mut(&name).context("before any family")?;
                let suffixes: &[_] = match family.kind.as_str() {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "histogram" => &["_bucket", "_count", "_sum"],
                    "info" => &["_info"],
                    _ => bail!("of an unknown type"),
                };
                let suffix = sample.name.strip_prefix(name.as_str());
                ensure!(suffix.is_some_and(|suffix| suffixes.contains(&suffix)), "not of {name}");
                ensure!(family.unit.is_empty() || name.ends_with(&format!("_{}", family.unit)), "unit");
                ensure!(family.kind == "gauge" || sample.value >= 0.0, "negative");
                ensure!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice");
                family.samples.push(sample);
                Ok(())
            })()
            .with_context(|| format!("line {line:?}"))?;
        }
        Ok(metrics)
    }

    /// The sum of all samples of that name that have these labels; an error when there are none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let has = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|own| own == value))
        };
        let mut found = self.samples().filter(has).peekable();
        ensure!(found.peek().is_some(), "there is no {name} with {labels:?}");
        Ok(found.map(|sample| sample.value).sum())
    }

    /// As [`value`](Self::value), of what counts things.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let value = self.value(name, labels)?;
        ensure!(value.fract() == 0.0 && value >= 0.0, "{name} is {value}");
        Ok(value as u64)
    }

    /// All samples.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.families.values().flat_map(|family| &family.samples)
    }
}

fn sample(line: &str) -> Result<Sample> {
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let (name, labels) = match series.split_once('{') {
        None => (series, BTreeMap::new()),
        Some((name, labels)) => {
            (name, read_labels(labels.strip_suffix('}').context("no end of the labels")?)?)
        }
    };
    let good = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    ensure!(good, "a name of other letters");
    Ok(Sample { name: name.to_owned(), labels, value: value.parse().context("value")? })
}

/// `a="b",c="d"`; values have no quotes in them here.
fn read_labels(text: &str) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for pair in text.split(',') {
        let (key, value) = pair.split_once('=').context("no = in a label")?;
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).context("no quotes")?;
        ensure!(!value.contains(['"', '\\']), "something to be escaped");
        ensure!(labels.insert(key.to_owned(), value.to_owned()).is_none(), "a label twice");
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP a_bytes A.\n# TYPE a_bytes counter\n# UNIT a_bytes bytes\n\
                        a_bytes_total{x=\"1\",y=\"2\"} 3\na_bytes_total{x=\"1\",y=\"3\"} 4\n\
                        # HELP b B.\n# TYPE b gauge\nb 0.5\n# EOF\n";

    #[test]
    fn what_is_right_is_read() {
        let metrics = Metrics::parse(GOOD).unwrap();
        assert_eq!(metrics.count("a_bytes_total", &[("x", "1")]).unwrap(), 7);
        assert_eq!(metrics.count("a_bytes_total", &[("x", "1"), ("y", "3")]).unwrap(), 4);
        assert!(metrics.value("b", &[]).is_ok_and(|value| (value - 0.5).abs() < 1e-9));
        assert!(metrics.count("b", &[]).is_err());
        assert!(metrics.value("a_bytes_total", &[("x", "2")]).is_err());
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        for (what, with) in [
            ("# EOF\n", ""),
            ("a_bytes_total{x=\"1\",y=\"3\"}", "a_bytes_total{x=\"1\",y=\"2\"}"),
            ("a_bytes_total{x=\"1\",y=\"3\"}", "b"),
            ("b 0.5", "b"),
            ("b 0.5", "b{} 0.5"),
            ("# TYPE b gauge", "# TYPE b counter"),
            ("# HELP b B.", "# HELP a_bytes B."),
            ("a_bytes_total{x=\"1\",y=\"3\"} 4", "a_bytes_total{x=\"1\",y=\"3\"} -4"),
        ] {
            assert!(GOOD.contains(what));
            assert!(Metrics::parse(&GOOD.replace(what, with)).is_err(), "{what:?} as {with:?}");
        }
    }
}
