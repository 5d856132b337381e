//! A cluster to test on: the one of `cargo xtask cluster up`, or any that `PODTAP_KUBECONFIG` names.
//!
//! Everything goes through kubectl, as a user would do it, and every call has a deadline. `PODTAP_KUBECTL` and
//! `PODTAP_XTASK` name the programs; without them those of this workspace are used.

mod namespace;
pub mod outage;
pub mod pinger;
mod pod;
pub mod podtap;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

pub use namespace::Namespace;
pub use pod::{BUSYBOX, PodManifest, RunningPod, TRAFFIC};

use crate::process::{output_within, target};
use crate::scratch::Scratch;

/// How long kubectl may take for anything that does not wait by itself.
pub const CALL: Duration = Duration::from_secs(30);

/// How long anything may take that controllers, kubelets and a busy machine have to do.
pub const SOON: Duration = Duration::from_secs(90);

/// Where the cluster is, and as whom to speak to it.
#[derive(Debug)]
pub struct Cluster {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    /// Whether its parts can be stopped.
    own: bool,
    /// Holds the kubeconfig of who is not the administrator.
    _scratch: Option<Scratch>,
}

impl Cluster {
    /// The cluster, as its administrator.
    pub fn get() -> Result<Self> {
        let home = target().join("cluster");
        let path = |variable, default| std::env::var_os(variable).map_or(default, PathBuf::from);
        let own = home.join("kubeconfig");
        let kubeconfig = path("PODTAP_KUBECONFIG", own.clone());
        ensure!(kubeconfig.is_file(), "there is no cluster: run `cargo xtask cluster up` first");
        let built = home.join("bin/kubectl");
        let kubectl = path("PODTAP_KUBECTL", if built.exists() { built } else { PathBuf::from("kubectl") });
        Ok(Self { kubectl, own: kubeconfig == own, kubeconfig, _scratch: None })
    }

    /// The same for tests that stop its parts or look into its nodes: none when it is not [our own](Self::is_own).
    pub fn own() -> Result<Option<Self>> {
        Ok(Some(Self::get()?).filter(Self::is_own))
    }

    /// The file that says where it is and who speaks to it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Whether it is the one of `cargo xtask cluster up`, so that its parts can be stopped and its nodes looked into.
    /// Tests that have to do so pass on any other cluster without having done anything, after saying so.
    pub fn is_own(&self) -> bool {
        if !self.own {
            eprintln!("not tested: this needs the cluster of `cargo xtask cluster up`");
        }
        self.own
    }

    /// The same cluster, as whom a token belongs to.
    pub fn with_token(&self, token: &str) -> Result<Self> {
        let mut config: Value =
            serde_json::from_str(&self.kubectl(&["config", "view", "--raw", "--minify", "-o", "json"])?)?;
        let name = config["users"][0]["name"].clone();
        config["users"] = json!([{"name": name, "user": {"token": token}}]);
        let scratch = Scratch::new("kubeconfig")?;
        let kubeconfig = scratch.path().join("kubeconfig");
        std::fs::write(&kubeconfig, config.to_string())?;
        Ok(Self { kubectl: self.kubectl.clone(), kubeconfig, own: self.own, _scratch: Some(scratch) })
    }

    /// As a service account, with a token like those that pods have, but not bound to one.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<Self> {
        self.with_token(self.kubectl(&["create", "token", name, "--namespace", namespace])?.trim())
    }

    /// kubectl with these arguments, for what the other functions do not do. Without deadline.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.kubectl);
        if self.own {
            command.env("KUBECACHEDIR", target().join("cluster/cache"));
        }
        command.env("KUBECONFIG", &self.kubeconfig).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs kubectl and gives what it printed.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        self.kubectl_within(CALL, arguments)
    }

    /// As [`kubectl`](Self::kubectl), that long at most.
    pub fn kubectl_within<S: AsRef<OsStr>>(&self, limit: Duration, arguments: &[S]) -> Result<String> {
        output_within(&mut self.command(arguments), "", limit)
    }

    /// Why kubectl fails; an error when it does not.
    pub fn refusal<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<String> {
        match self.kubectl(arguments) {
            Ok(text) => bail!("it was not refused: {text}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }

    /// Creates or changes an object.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let text = object.to_string();
        output_within(&mut self.command(&["apply", "-f", "-"]), &text, CALL)?;
        Ok(())
    }

    /// Creates an object.
    pub fn create(&self, object: &Value) -> Result<()> {
        let text = object.to_string();
        output_within(&mut self.command(&["create", "-f", "-"]), &text, CALL)?;
        Ok(())
    }

    /// `kubectl get` with these arguments, as JSON.
    pub fn get_json<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Value> {
        let mut words: Vec<&OsStr> = vec![OsStr::new("get")];
        words.extend(arguments.iter().map(AsRef::as_ref));
        words.extend(["-o", "json"].map(OsStr::new));
        Ok(serde_json::from_str(&self.kubectl(&words)?)?)
    }

    /// The names of its nodes.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let nodes = self.get_json(&["nodes"])?;
        let names = nodes["items"].as_array().context("no list")?.iter();
        Ok(names.filter_map(|node| node["metadata"]["name"].as_str()).map(str::to_owned).collect())
    }

    /// Whether it is there for the tests only: they may take it away and bring it up again.
    pub fn is_disposable(&self) -> bool {
        let disposable = self.own && std::env::var_os("PODTAP_CLUSTER_DISPOSABLE").is_some();
        if !disposable {
            eprintln!("not tested: this needs a cluster that `cargo xtask test` brought up itself");
        }
        disposable
    }

    /// Ends a part of the cluster at once, as a crash does: `api`, `node2` and the like, see `cargo xtask cluster stop`.
    pub fn stop(&self, part: &str) -> Result<()> {
        self.xtask("stop", part)
    }

    /// Starts a part that was stopped.
    pub fn start(&self, part: &str) -> Result<()> {
        self.xtask("start", part)
    }

    /// Lets a part hang: its connections stay, but nothing is answered.
    pub fn pause(&self, part: &str) -> Result<()> {
        self.xtask("pause", part)
    }

    /// Lets a part that hangs go on.
    pub fn resume(&self, part: &str) -> Result<()> {
        self.xtask("resume", part)
    }

    /// Runs a program on a node, with the node's mounts, processes and network.
    pub fn on(&self, node: &str, command: &[&str]) -> Result<String> {
        output_within(xtask().args(["cluster", "on", node]).args(command), "", CALL)
    }

    fn xtask(&self, verb: &str, part: &str) -> Result<()> {
        ensure!(self.own, "the parts of this cluster are not ours to {verb}");
        output_within(xtask().args(["cluster", verb, part]), "", SOON)?;
        Ok(())
    }
}

/// What brings the cluster up and takes it away: `cargo xtask`.
pub fn xtask() -> Command {
    let built = target().join("debug/xtask");
    Command::new(std::env::var_os("PODTAP_XTASK").map_or(built, PathBuf::from))
}

/// Looks again and again until there is something; an error says what was looked for and, if there was one, the last
/// error.
pub fn wait<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = match look() {
            Ok(Some(found)) => return Ok(found),
            nothing => nothing,
        };
        if Instant::now() > deadline {
            let what = format!("waited {} s for {what}", limit.as_secs());
            return match found {
                Err(error) => Err(error.context(what)),
                Ok(_) => bail!(what),
            };
        }
        sleep(Duration::from_millis(200));
    }
}
