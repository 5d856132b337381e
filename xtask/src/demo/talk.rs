//! Who talks to whom: ordinary servers in one pod, ordinary clients in another.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use podtap_tests::pods::{Pod, Pods};
use podtap_tests::process::{Process, output};
use podtap_tests::scratch::Scratch;

use super::{ELSEWHERE, PATIENCE, UNLABELLED};

/// How many echo requests of each family the client sends.
pub(crate) const PINGS: usize = 3;

/// The name that the demo's DNS server knows.
const NAME: &str = "web.demo.test";

/// Servers of the pods; ended when dropped.
pub(crate) struct Servers {
    _processes: Vec<Process>,
    _home: Scratch,
}

impl Servers {
    /// HTTP, DNS and TLS in the pod `web`, HTTP elsewhere for the pod that nobody captures.
    pub(crate) fn start(pods: &Pods) -> Result<Self> {
        let home = Scratch::new("demo-servers")?;
        let path = home.path();
        std::fs::write(path.join("index.html"), "a page of podtap's demo\n")?;
        certificate(path)?;
        let (web, elsewhere) = (pods.pod("web"), pods.pod(ELSEWHERE));
        let http = |pod: &Pod| {
            let mut server = pod.command("busybox");
            server.args(["httpd", "-f", "-p", "[::]:80", "-h"]).arg(path);
            start(&mut server)
        };
        let mut dns = web.command("dnsmasq");
        dns.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
        ]);
        dns.args(["--pid-file=", "--log-facility=-", &format!("--host-record={NAME},{},{}", web.v4, web.v6)]);
        let mut tls = web.command("openssl");
        tls.args(["s_server", "-quiet", "-www", "-6", "-accept", "[::]:443"]);
        tls.arg("-key").arg(path.join("key.pem")).arg("-cert").arg(path.join("cert.pem"));
        let processes = vec![http(web)?, http(elsewhere)?, start(&mut dns)?, start(&mut tls)?];
        for (pod, port) in [(web, 80), (elsewhere, 80), (web, 53), (web, 443)] {
            listening(pod, port)?;
        }
        Ok(Self { _processes: processes, _home: home })
    }
}

fn start(command: &mut Command) -> Result<Process> {
    Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()))
}

fn certificate(home: &Path) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    openssl.args(["-days", "2", "-subj", "/CN=web.demo.test", "-keyout"]).arg(home.join("key.pem"));
    output(openssl.arg("-out").arg(home.join("cert.pem"))).map(|_| ())
}

/// Waits until something listens on that TCP port of the pod.
fn listening(pod: &Pod, port: u16) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let local = format!(":{port:04X}");
    while Instant::now() < deadline {
        let sockets = output(pod.command("cat").args(["/proc/net/tcp", "/proc/net/tcp6"]))?;
        // Columns: number, local address, remote address, state; 0A is LISTEN.
        let listens = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            words.next().is_some_and(|address| address.ends_with(&local)) && words.nth(1) == Some("0A")
        };
        if sockets.lines().any(listens) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    bail!("nothing listens on port {port} of {}", pod.name)
}

/// The conversations: every protocol once over IPv4 and once over IPv6, and meanwhile one that must be in no file.
pub(crate) fn converse(pods: &Pods, say: &mut dyn FnMut(&str)) -> Result<()> {
    let (web, client, db) = (pods.pod("web"), pods.pod("client"), pods.pod(UNLABELLED));
    let addresses = [web.v4.to_string(), web.v6.to_string()];
    say("db talks to a server elsewhere");
    fetch(db, "http", SocketAddr::from((pods.pod(ELSEWHERE).v4, 80)))?;
    fetch(db, "http", SocketAddr::from((pods.pod(ELSEWHERE).v6, 80)))?;
    say("client asks web: DNS");
    for (address, kind) in addresses.iter().zip(["A", "AAAA"]) {
        let answer = output(client.command("dig").args([
            "+short",
            "+tries=1",
            "+time=3",
            kind,
            NAME,
            &format!("@{address}"),
        ]))?;
        ensure!(addresses.contains(&answer.trim().to_owned()), "DNS answered {answer:?}");
    }
    say("client asks web: HTTP, over IPv4 and IPv6");
    fetch(client, "http", SocketAddr::from((web.v4, 80)))?;
    fetch(client, "http", SocketAddr::from((web.v6, 80)))?;
    say("client asks web: HTTPS");
    fetch(client, "https", SocketAddr::from((web.v6, 443)))?;
    say("client pings web, over IPv4 and IPv6");
    for address in &addresses {
        let count = PINGS.to_string();
        output(client.command("ping").args(["-n", "-q", "-i", "0.2", "-W", "2", "-c", &count, address]))?;
    }
    Ok(())
}

fn fetch(from: &Pod, scheme: &str, server: SocketAddr) -> Result<()> {
    let mut curl = from.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--insecure", "--max-time", "10", "--noproxy", "*"]);
    curl.arg(format!("{scheme}://{server}/"));
    output(&mut curl).map(|_| ()).context("curl")
}
