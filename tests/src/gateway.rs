//! The gateway, run as a process beside the cluster, by the rights that it has inside.

use std::fs::File;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cluster::{Cluster, SOON, wait};
use crate::metrics::{Metrics, free_address, get};
use crate::process::{Process, program};
use crate::relay::Relay;
use crate::scratch::Scratch;

/// Namespace, service account, Deployment and lease of the gateway.
const NAME: &str = "podtap-gateway";
const OVERLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/default");

/// Whom gateways of a test run as. The deployed ones rest as long as this is there, so that what is seen is the test's.
#[derive(Debug)]
pub struct Gateways<'a> {
    cluster: &'a Cluster,
    /// The cluster as the gateway's service account sees it.
    account: Cluster,
    /// Replicas that were deployed.
    replicas: String,
    scratch: Scratch,
}

impl<'a> Gateways<'a> {
    /// Deploys podtap and takes its gateways away for the time.
    pub fn instead_of_deployed(cluster: &'a Cluster) -> Result<Self> {
        cluster.kubectl_within(SOON, &["apply", "-k", OVERLAY])?;
        let crds =
            ["packetcaptures", "podcaptures", "capturepolicies"].map(|name| format!("crd/{name}.podtap.dev"));
        let words = ["wait", "--for=condition=Established", "--timeout=60s"];
        cluster.kubectl_within(SOON, &[&words[..], &crds.each_ref().map(String::as_str)].concat())?;
        let find = ["get", "deployment", NAME, "--namespace", NAME, "-o", "jsonpath={.spec.replicas}"];
        let replicas = cluster.kubectl(&find)?;
        let account = cluster.service_account(NAME, NAME)?;
        let gateways = Self { cluster, account, replicas, scratch: Scratch::new("gateways")? };
        gateways.scale("0")?;
        wait("the deployed gateways to rest", SOON, || {
            let label = format!("app.kubernetes.io/name={NAME}");
            let pods = cluster.kubectl(&["get", "pods", "--namespace", NAME, "-l", &label, "-o", "name"])?;
            Ok(pods.trim().is_empty().then_some(()))
        })?;
        Ok(gateways)
    }

    fn scale(&self, replicas: &str) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.cluster.kubectl(&["scale", "deployment", NAME, "--namespace", NAME, &replicas])?;
        Ok(())
    }

    /// Starts one of that name and waits until it knows the cluster.
    pub fn start(&self, name: &str, arguments: &[&str]) -> Result<Gateway> {
        self.start_as(name, arguments, self.account.kubeconfig())
    }

    /// As [`start`](Self::start), and gives the way that it has to the API server.
    pub fn start_behind_relay(&self, name: &str) -> Result<(Gateway, Relay)> {
        let mut config: Value = serde_json::from_slice(&std::fs::read(self.account.kubeconfig())?)?;
        let cluster = &mut config["clusters"][0]["cluster"];
        let server = cluster["server"].as_str().context("no server")?;
        let server = server.strip_prefix("https://").context("no HTTPS")?.trim_end_matches('/').to_owned();
        let address = if server.contains(':') { server.clone() } else { format!("{server}:443") };
        let address = address.to_socket_addrs()?.next().context("no address")?;
        let relay = Relay::to(address)?;
        cluster["server"] = json!(format!("https://{}", relay.address()));
        cluster["tls-server-name"] = json!(server.rsplit_once(':').map_or(&*server, |(host, _)| host));
        let file = self.scratch.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&file, config.to_string())?;
        Ok((self.start_as(name, &[], &file)?, relay))
    }

    fn start_as(&self, name: &str, arguments: &[&str], kubeconfig: &Path) -> Result<Gateway> {
        let log = self.scratch.path().join(format!("{name}.log"));
        let address = free_address()?;
        let mut command = Command::new(program("capture-gateway")?);
        command
            .args([
                "run",
                "--http-address",
                &address.to_string(),
                "--identity",
                name,
                "--log-format",
                "human",
            ])
            .args(arguments)
            .env("KUBECONFIG", kubeconfig)
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let gateway = Gateway { process: Process::start(&mut command)?, address, log };
        let ready = || Ok((get(address, "/readyz")?.status == 200).then_some(()));
        wait("the gateway to know the cluster", SOON, ready).with_context(|| gateway.log())?;
        Ok(gateway)
    }
}

impl Drop for Gateways<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.scale(&self.replicas) {
            eprintln!("the deployed gateways could not be started again: {error:#}");
        }
    }
}

/// A running gateway, killed when this is dropped.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub process: Process,
    address: SocketAddr,
    log: PathBuf,
}

impl Gateway {
    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How many writes to the API server have worked.
    pub fn writes(&self) -> Result<u64> {
        let metrics = Metrics::scrape(self.address)?;
        // Not shown before the first.
        Ok(metrics.count("podtap_gateway_writes_total", &[]).unwrap_or_default())
    }

    /// Whether it says that it writes.
    pub fn leads(&self) -> Result<bool> {
        Ok(Metrics::scrape(self.address)?.count("podtap_gateway_leader", &[])? == 1)
    }
}
