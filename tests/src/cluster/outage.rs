//! Parts of the cluster that are away, or out of a node's reach, for as long as a test wants.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Cluster, SOON, wait};
use crate::fake::{Call, Connection};

/// Where the project's own cluster has etcd.
const ETCD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 23790);

impl Cluster {
    /// Stops the API server until what is returned is dropped, or [`back`](Without::back).
    pub fn without_api_server(&self) -> Result<Without<'_>> {
        let without = Without { cluster: self, over: false };
        self.stop("api")?;
        Ok(without)
    }

    /// Cuts a node off from the API server until what is returned is dropped, or [`mended`](Cut::mend).
    pub fn cut(&self, node: &str, how: Broken) -> Result<Cut<'_>> {
        let service = ["get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}"];
        let api = self.kubectl(&service)?;
        let words = |command: &str| command.replace("API", api.trim());
        let (cut, mend) = match how {
            Broken::Refusing => ("ip route add unreachable API", "ip route del unreachable API"),
            Broken::Silent => ("iptables -w -I INPUT -s API -j DROP", "iptables -w -D INPUT -s API -j DROP"),
        };
        self.on(node, &["sh", "-ec", &words(cut)])?;
        Ok(Cut { cluster: self, node: node.to_owned(), mend: Some(words(mend)) })
    }

    /// Has etcd forget whatever is not so any more, as API servers have it do every five minutes, after something was
    /// written: nobody has seen the newest state.
    pub fn forget_the_past(&self) -> Result<()> {
        ensure!(self.is_own(), "the etcd of this cluster is not ours");
        let ask = |what: &str, body: Value| -> Result<Value> {
            let call = Call::create(&format!("/v3/kv/{what}"), body);
            Ok(serde_json::from_slice(&Connection::open(ETCD)?.make(&call, false)?)?)
        };
        // A key that is no API server's.
        ask("put", json!({"key": "AA==", "value": "AA=="}))?;
        let revision = ask("deleterange", json!({"key": "AA=="}))?["header"]["revision"].clone();
        ask("compaction", json!({"revision": revision, "physical": true}))?;
        Ok(())
    }
}

/// How a connection is broken.
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    /// Whoever begins one is told at once, and hears when the other side ends one.
    Refusing,
    /// Nothing arrives any more: connections stay as they are, for ever as it seems.
    Silent,
}

/// The cluster while its API server is away.
#[derive(Debug)]
pub struct Without<'a> {
    cluster: &'a Cluster,
    over: bool,
}

impl Without<'_> {
    /// The API server is back, and answers.
    pub fn back(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.over, true) {
            return Ok(());
        }
        self.cluster.start("api")?;
        wait("the API server to answer", SOON, || {
            self.cluster.kubectl_within(Duration::from_secs(5), &["get", "--raw", "/readyz"]).map(Some)
        })?;
        Ok(())
    }
}

impl Drop for Without<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the API server may be away: {error:#}");
        }
    }
}

/// A node that does not reach the API server.
#[derive(Debug)]
pub struct Cut<'a> {
    cluster: &'a Cluster,
    node: String,
    /// What takes the cut back; none when it was taken back.
    mend: Option<String>,
}

impl Cut<'_> {
    /// The node reaches the API server again.
    pub fn mend(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(mend) = self.mend.take() else { return Ok(()) };
        let done = self.cluster.on(&self.node, &["sh", "-ec", &mend]);
        done.map(drop).with_context(|| format!("{} stays cut off", self.node))
    }
}

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}
