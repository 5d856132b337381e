//! The agent of a node that does not exist: a process beside the cluster, by the rights that agents have inside.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use podtap_tests::cluster::{Cluster, SOON};
use podtap_tests::memory;
use podtap_tests::metrics::{free_address, wait_for_status};
use podtap_tests::process::{Process, program};
use podtap_tests::scratch::Scratch;

/// How long what an agent was told of may occupy it.
const SETTLED: Duration = Duration::from_secs(10);

/// Killed when this is dropped.
pub(crate) struct Agent {
    process: Process,
    /// Who it is.
    _account: Cluster,
    _scratch: Scratch,
}

/// Bytes of an agent's memory.
#[derive(Clone, Copy)]
pub(crate) struct Memory {
    /// Pages in RAM, shared ones in proportion (PSS).
    pub(crate) own: u64,
    /// All pages in RAM (RSS).
    pub(crate) resident: u64,
    /// The most so far of the latter.
    pub(crate) most: u64,
}

impl Agent {
    /// Starts it and waits until it knows all pods, captures, policies and namespaces.
    pub(crate) fn start(cluster: &Cluster, node: &str) -> Result<Self> {
        let scratch = Scratch::new("scale-agent")?;
        let account = cluster.service_account("podtap-system", "podtap-agent")?;
        let address = free_address()?;
        let [data, cni, config, log] =
            ["data", "cni", "agent.yaml", "log"].map(|name| scratch.path().join(name));
        std::fs::create_dir(&cni)?;
        let keys = [
            format!("dataDir: {}", data.display()),
            format!("cniCacheDirs: [{}]", cni.display()),
            format!("httpAddress: {address}"),
            // Not that of the agent of the node which this machine is.
            format!("healthAddress: {}", free_address()?),
        ];
        std::fs::write(&config, keys.join("\n"))?;
        let mut command = Command::new(program("capture-daemon")?);
        command.args(["run", "--kubernetes", "--config"]).arg(&config);
        command.env("KUBECONFIG", account.kubeconfig()).env("NODE_NAME", node);
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let process = Process::start(&mut command)?;
        wait_for_status(address, "/readyz", 200, SOON)
            .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
        Ok(Self { process, _account: account, _scratch: scratch })
    }

    /// Its memory, once it has nothing to do.
    pub(crate) fn memory(&self) -> Result<Memory> {
        std::thread::sleep(SETTLED);
        let (resident, most) = memory::resident(self.process.id())?;
        Ok(Memory { own: memory::of(self.process.id())?.own, resident, most })
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [own, resident, most] = [self.own, self.resident, self.most].map(crate::mebibytes);
        write!(f, "{own} of its own, {resident} resident (at most {most} so far)")
    }
}
