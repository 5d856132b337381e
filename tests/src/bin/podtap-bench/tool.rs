//! The tools side by side: podtap, tcpdump, dumpcap, and none at all. Each is started, waited for until it captures,
//! and stopped; what it captured is counted in its files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::manifest;
use podtap_tests::pods::Pod;
use podtap_tests::process::Process;
use podtap_tests::record::Record;
use podtap_tests::scratch::Scratch;
use serde_json::{Value, json};

use crate::count;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Tool {
    Podtap,
    Tcpdump,
    Dumpcap,
    /// No capture: what the machine does by itself.
    None,
}

impl Tool {
    /// As tables show it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Podtap => "podtap",
            Self::Tcpdump => "tcpdump",
            Self::Dumpcap => "dumpcap",
            Self::None => "none",
        }
    }
}

/// What is to be captured.
#[derive(Clone, Debug)]
pub(crate) struct Job<'a> {
    /// On this pod's host interface.
    pub(crate) pod: &'a Pod,
    /// Bytes of a packet that are kept; all when none.
    pub(crate) snap: Option<u32>,
    /// More fields of podtap's `spec`.
    pub(crate) spec: Value,
}

impl<'a> Job<'a> {
    /// Whole packets.
    pub(crate) const fn new(pod: &'a Pod) -> Self {
        Self { pod, snap: None, spec: Value::Null }
    }
}

/// The agent and a place for files of the others.
#[derive(Debug)]
pub(crate) struct Tools {
    /// One agent for the whole bench, idle while others capture.
    pub(crate) agent: Agent,
    scratch: Scratch,
    captures: u32,
}

/// A capture that goes on.
#[derive(Debug)]
pub(crate) struct Running {
    tool: Tool,
    what: Capture,
}

#[derive(Debug)]
enum Capture {
    Nothing,
    /// Name of the PacketCapture, and the agent's process.
    Podtap(String, u32),
    /// tcpdump or dumpcap, what it says, and where it writes.
    Program(Process, PathBuf, PathBuf),
    /// tcpdump that keeps the newest of several files, what it says, and their directory.
    Rotating(Process, PathBuf, PathBuf),
}

/// What came of a capture.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Packets in its files.
    pub(crate) packets: u64,
    /// Whether they are numbered without a gap, in order.
    pub(crate) ordered: bool,
    /// podtap's record.
    pub(crate) record: Option<Record>,
}

/// The manifest of the one capture at a time.
const MANIFEST: &str = "capture.json";

impl Tools {
    /// Starts the agent, on the core of those that capture when this thread is bound to it.
    pub(crate) fn start(pods: &[Pod], configuration: &str) -> Result<Self> {
        let agent = agent("bench-agent", configuration, pods)?;
        Ok(Self { agent, scratch: Scratch::new("bench")?, captures: 0 })
    }

    /// Where the other tools' files go.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Starts a capture; it captures when this returns.
    pub(crate) fn capture(&mut self, tool: Tool, job: &Job<'_>) -> Result<Running> {
        self.captures += 1;
        let what = match tool {
            Tool::None => Capture::Nothing,
            Tool::Podtap => self.podtap(job)?,
            Tool::Tcpdump => {
                let file = self.directory().join("capture");
                let (process, said) = self.program(tcpdump(), job, "listening on", &file)?;
                Capture::Program(process, said, file)
            }
            Tool::Dumpcap => {
                let mut command = Command::new("dumpcap");
                command.args(["-q", "-B", "64"]);
                let file = self.directory().join("capture");
                let (process, said) = self.program(command, job, "File: ", &file)?;
                Capture::Program(process, said, file)
            }
        };
        // Past its own start.
        std::thread::sleep(Duration::from_millis(100));
        Ok(Running { tool, what })
    }

    /// Starts a tcpdump that keeps the newest `files` files of so many bytes.
    pub(crate) fn rotating_tcpdump(&self, job: &Job<'_>, file_bytes: u64, files: u64) -> Result<Running> {
        let directory = self.directory().join("rotating");
        std::fs::create_dir(&directory)?;
        let mut command = tcpdump();
        // In millions of bytes.
        command.args(["-C", &(file_bytes / 1_000_000).to_string(), "-W", &files.to_string()]);
        let (process, said) = self.program(command, job, "listening on", &directory.join("capture"))?;
        std::thread::sleep(Duration::from_millis(100));
        Ok(Running { tool: Tool::Tcpdump, what: Capture::Rotating(process, said, directory) })
    }

    fn podtap(&mut self, job: &Job<'_>) -> Result<Capture> {
        let name = format!("slice-{}", self.captures);
        let mut spec = json!({"podNames": [job.pod.name], "limits": {"bytes": "1Ti"}, "duration": "1h"});
        if let Some(snap) = job.snap {
            spec["snapLength"] = json!(snap);
        }
        for (field, value) in job.spec.as_object().into_iter().flatten() {
            spec[field] = value.clone();
        }
        self.agent.apply(MANIFEST, &manifest::packet_capture(&name, spec))?;
        self.agent.wait_capture(&name, &ATTACHED)?;
        Ok(Capture::Podtap(name, self.agent.process().id()))
    }

    fn program(
        &self,
        mut command: Command,
        job: &Job<'_>,
        ready: &str,
        file: &Path,
    ) -> Result<(Process, PathBuf)> {
        let said = self.directory().join("said");
        let log = std::fs::File::create(&said)?;
        command.args(["-i", &job.pod.host_interface]);
        if let Some(snap) = job.snap {
            command.args(["-s", &snap.to_string()]);
        }
        command.arg("-w").arg(file).stdout(log.try_clone()?).stderr(log);
        let process = Process::start(&mut command)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !std::fs::read_to_string(&said)?.contains(ready) {
            ensure!(Instant::now() < deadline, "{command:?}: {}", std::fs::read_to_string(&said)?);
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok((process, said))
    }

    /// Ends a capture, counts what it left, and removes it.
    pub(crate) fn end(&mut self, running: Running, port: u16) -> Result<Outcome> {
        match running.what {
            Capture::Nothing => Ok(Outcome::default()),
            Capture::Rotating(process, said, directory) => {
                let said = interrupted(running.tool, process, &said)?;
                let packets = said.lines().find_map(|line| line.strip_suffix(" packets captured"));
                let packets = packets.and_then(|number| number.parse().ok());
                std::fs::remove_dir_all(directory)?;
                // What was in the files that are gone is known to it alone.
                Ok(Outcome { packets: packets.context(said)?, ordered: true, record: None })
            }
            Capture::Program(process, said, file) => {
                interrupted(running.tool, process, &said)?;
                let counted = count::packets(&file, port)?;
                std::fs::remove_file(file)?;
                Ok(Outcome { packets: counted.packets, ordered: counted.ordered(), record: None })
            }
            Capture::Podtap(name, _) => {
                self.agent.remove(MANIFEST)?;
                let record = self.agent.wait_capture(&name, &["Stopped", "Completed", "Failed"])?;
                ensure!(record.state() == "Stopped", "{}: {}", record.state(), record.message());
                let mut counted = count::Counted::default();
                for file in record.files() {
                    counted.add(&file, port)?;
                }
                std::fs::remove_dir_all(record.directory()).context("removing a capture")?;
                Ok(Outcome { packets: counted.packets, ordered: counted.ordered(), record: Some(record) })
            }
        }
    }
}

/// Starts an agent that knows these pods, on the core that this thread is bound to.
pub(crate) fn agent(name: &str, configuration: &str, pods: &[Pod]) -> Result<Agent> {
    let agent = Agent::start_with(name, configuration, &[])?;
    for pod in pods {
        agent.apply(&format!("{}.json", pod.name), &manifest::pod(pod))?;
    }
    Ok(agent)
}

fn tcpdump() -> Command {
    let mut command = Command::new("tcpdump");
    // As root: Debian's gives its rights up, and could then not write here.
    command.args(["-Z", "root", "-n", "-B", "65536"]);
    command
}

/// Ends a program as Ctrl-C does; what it said.
fn interrupted(tool: Tool, mut process: Process, said: &Path) -> Result<String> {
    process.signal(libc::SIGINT)?;
    let status = process.wait(Duration::from_secs(60))?;
    let said = std::fs::read_to_string(said)?;
    ensure!(status.success(), "{}: {status}: {said}", tool.name());
    Ok(said)
}

impl Running {
    /// The process that captures.
    pub(crate) fn process(&self) -> Option<u32> {
        match &self.what {
            Capture::Nothing => None,
            Capture::Podtap(_, process) => Some(*process),
            Capture::Program(process, ..) | Capture::Rotating(process, ..) => Some(process.id()),
        }
    }
}
