//! What must be in the files, and what must not, as tshark reads them.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use podtap_tests::pods::{Pod, Pods, mac_text};
use podtap_tests::tools;

use super::{CAPTURED, ELSEWHERE, UNLABELLED, talk};

/// One thing that was counted.
pub(crate) struct Check {
    pod: String,
    what: String,
    expected: usize,
    found: usize,
}

impl Check {
    /// Whether the count is right.
    pub(crate) fn holds(&self) -> bool {
        self.expected == self.found
    }
}

impl fmt::Display for Check {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.holds() { "ok    " } else { "WRONG " };
        write!(out, "{verdict} {:<7} {:<48} {:>3}", self.pod, self.what, self.found)?;
        if !self.holds() {
            write!(out, "  (expected {})", self.expected)?;
        }
        Ok(())
    }
}

/// What tshark says of one packet.
const FIELDS: [&str; 13] = [
    "frame.packet_flags_direction",
    "eth.src",
    "eth.dst",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "http.request.method",
    "http.response.code",
    "dns.flags.response",
    "icmp.type",
    "icmpv6.type",
    "tls.handshake.type",
];

/// One packet: the texts of [`FIELDS`].
struct Frame(Vec<String>);

impl Frame {
    fn get(&self, field: &str) -> &str {
        let index = FIELDS.iter().position(|name| *name == field);
        index.and_then(|index| self.0.get(index)).map_or("", String::as_str)
    }

    /// Direction as the file says it.
    fn inbound(&self) -> Option<bool> {
        match self.get("frame.packet_flags_direction").trim_start_matches("0x").trim_start_matches('0') {
            "1" => Some(true),
            "2" => Some(false),
            _ => None,
        }
    }

    fn between(&self, from: &Pod, to: &Pod) -> bool {
        let is = |field: &str, address: String| self.get(field) == address;
        is("ip.src", from.v4.to_string()) && is("ip.dst", to.v4.to_string())
            || is("ipv6.src", from.v6.to_string()) && is("ipv6.dst", to.v6.to_string())
    }

    fn v6(&self) -> bool {
        !self.get("ipv6.src").is_empty()
    }

    fn of(&self, pod: &Pod) -> bool {
        let mac = mac_text(pod.mac);
        ["eth.src", "eth.dst"].into_iter().any(|field| self.get(field) == mac)
    }
}

/// A kind of packet: its name, the field that shows it, and the field's value.
type Kind = (&'static str, &'static str, &'static str);

/// Question, answer, how often over IPv4, how often over IPv6.
const CONVERSATIONS: [(Kind, Kind, usize, usize); 5] = [
    (("HTTP request", "http.request.method", "GET"), ("HTTP response", "http.response.code", "200"), 1, 1),
    (("DNS query", "dns.flags.response", "0"), ("DNS answer", "dns.flags.response", "1"), 1, 1),
    (("echo request", "icmp.type", "8"), ("echo reply", "icmp.type", "0"), talk::PINGS, 0),
    (("echo request", "icmpv6.type", "128"), ("echo reply", "icmpv6.type", "129"), 0, talk::PINGS),
    (("TLS client hello", "tls.handshake.type", "1"), ("TLS server hello", "tls.handshake.type", "2"), 0, 1),
];

/// Counts the client's and the server's side of every conversation in one pod's files, and what does not belong there.
pub(crate) fn conversations(pods: &Pods, name: &str, files: &[PathBuf]) -> Result<Vec<Check>> {
    let [file] = files else { bail!("{name} has {} files instead of one", files.len()) };
    tools::agree(file)?;
    let lines = tools::tshark(file, "", &FIELDS).with_context(|| file.display().to_string())?;
    let frames: Vec<Frame> =
        lines.iter().map(|line| Frame(line.split('\t').map(str::to_owned).collect())).collect();
    let [web, client] = CAPTURED.map(|name| pods.pod(name));
    let serves = name == web.name;
    let mut checks = Vec::new();
    let mut check = |what: String, expected: usize, found: usize| {
        checks.push(Check { pod: name.to_owned(), what, expected, found });
    };
    for (question, answer, v4, v6) in CONVERSATIONS {
        // What one end sends the other receives.
        for ((label, field, value), from, to, inbound) in
            [(question, client, web, serves), (answer, web, client, !serves)]
        {
            for (version, v6, expected) in [("IPv4", false, v4), ("IPv6", true, v6)] {
                if expected == 0 {
                    continue;
                }
                let direction = if inbound { "received" } else { "sent" };
                let found = frames.iter().filter(|frame| {
                    frame.get(field).split(',').any(|one| is(one, value))
                        && frame.v6() == v6
                        && frame.between(from, to)
                        && frame.inbound() == Some(inbound)
                });
                check(format!("{label} over {version}, {direction}"), expected, found.count());
            }
        }
    }
    for name in [UNLABELLED, ELSEWHERE] {
        let other = pods.pod(name);
        check(format!("packets from or to {name}"), 0, frames.iter().filter(|frame| frame.of(other)).count());
    }
    let directed = frames.iter().filter(|frame| frame.inbound().is_none()).count();
    check("packets without direction".to_owned(), 0, directed);
    Ok(checks)
}

/// tshark prints flags as numbers or, newer ones, as `True` and `False`.
fn is(found: &str, value: &str) -> bool {
    found == value || matches!((found, value), ("True", "1") | ("False", "0"))
}
