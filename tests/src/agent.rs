//! The real agent, run on a directory of manifests.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::disk::Disk;
use crate::process::{Process, program};
use crate::record::Record;
use crate::scratch::Scratch;

/// How long anything that should happen at once may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);

/// An agent with directories of its own. Killed, and the directories removed, when dropped.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    // Dropped after what runs on it and before the directory that it is mounted in.
    disk: Option<Disk>,
    scratch: Scratch,
    arguments: Vec<String>,
    /// Bytes in its log when it was started.
    logged: usize,
}

impl Agent {
    /// Starts one without configuration file.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_with(name, "", &[])
    }

    /// Starts one with that configuration file (none when empty) and further arguments of `run`.
    pub fn start_with(name: &str, configuration: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_prepared(name, configuration, arguments, |_| Ok(None))
    }

    /// Starts one whose data directory is a disk of its own, of that many MiB.
    pub fn start_on_disk(name: &str, configuration: &str, mebibytes: u64) -> Result<Self> {
        Self::start_prepared(name, configuration, &[], |home| {
            Disk::make(&home.join("disk"), &home.join("data"), mebibytes).map(Some)
        })
    }

    fn start_prepared(
        name: &str,
        configuration: &str,
        arguments: &[&str],
        prepare: impl FnOnce(&Path) -> Result<Option<Disk>>,
    ) -> Result<Self> {
        let scratch = Scratch::new(name)?;
        for directory in ["pods", "data"] {
            std::fs::create_dir(scratch.path().join(directory))?;
        }
        let disk = prepare(scratch.path())?;
        let mut arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        if !configuration.is_empty() {
            let file = scratch.path().join("config.yaml");
            std::fs::write(&file, configuration)?;
            arguments.extend(["--config".to_owned(), file.display().to_string()]);
        }
        let process = spawn(scratch.path(), &arguments)?;
        Ok(Self { process, disk, scratch, arguments, logged: 0 })
    }

    /// Starts it again on the same directories, after [`stop`](Self::stop) or [`kill`](Self::kill).
    ///
    /// Records of the run before are removed first, so that none is taken for what the new agent says; it has to make
    /// them again out of what it knows.
    pub fn start_again(&mut self) -> Result<()> {
        let status = self.data_dir().join(".status");
        if status.exists() {
            std::fs::remove_dir_all(status)?;
        }
        self.start_as_it_is()
    }

    /// As [`start_again`](Self::start_again), and records stay.
    pub fn start_as_it_is(&mut self) -> Result<()> {
        self.logged = usize::try_from(std::fs::metadata(self.log_file())?.len())?;
        self.process = spawn(self.scratch.path(), &self.arguments)?;
        Ok(())
    }

    /// Waits until the agent that was started last takes requests.
    pub fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        // Its log goes on in the file of the one before.
        while !std::fs::read_to_string(self.log_file())?[self.logged..].contains("\"message\":\"ready\"") {
            if Instant::now() > deadline || !self.process.running() {
                bail!("the agent does not become ready:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.process.signal(libc::SIGTERM)?;
        self.process.wait(SOON).with_context(|| format!("after SIGTERM:\n{}", self.log()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The disk that it was started on; panics when there is none.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("not started on a disk of its own")
    }

    /// Where manifests are put.
    pub fn pods_dir(&self) -> PathBuf {
        self.scratch.path().join("pods")
    }

    /// Where captures are.
    pub fn data_dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// Writes a manifest at once, as a careful editor does: another file, then renamed.
    pub fn apply(&self, file: &str, manifest: &Value) -> Result<()> {
        let directory = self.pods_dir();
        let new = directory.join(format!(".{file}.new"));
        std::fs::write(&new, serde_json::to_vec_pretty(manifest)?)?;
        std::fs::rename(new, directory.join(file)).context("renaming a manifest")
    }

    /// Writes any text as a manifest, in place.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        std::fs::write(self.pods_dir().join(file), text).context("writing a manifest")
    }

    /// Removes a manifest.
    pub fn remove(&self, file: &str) -> Result<()> {
        std::fs::remove_file(self.pods_dir().join(file)).context("removing a manifest")
    }

    /// All records.
    pub fn records(&self) -> Result<Vec<Record>> {
        Record::all(&self.data_dir())
    }

    /// Waits until `wanted` finds something in the records. An error shows them, and the end of the log.
    pub fn wait<T>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&[Record]) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + timeout;
        loop {
            let records = self.records()?;
            if let Some(found) = wanted(&records) {
                return Ok(found);
            }
            let ended = !self.process.running();
            if ended || Instant::now() > deadline {
                let why = if ended { "the agent has ended" } else { "in vain" };
                let records: Vec<String> = records.iter().map(|record| record.json().to_string()).collect();
                bail!("waiting for {what}: {why}\nrecords:\n{}\nlog:\n{}", records.join("\n"), self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the only record of that pod is in one of these states.
    pub fn wait_pod(&mut self, pod: &str, states: &[&str]) -> Result<Record> {
        self.wait(&format!("{pod} to be {states:?}"), SOON, |records| {
            let mut own = records.iter().filter(|record| record.pod() == pod);
            let first = own.next()?;
            (own.next().is_none() && states.contains(&first.state())).then(|| first.clone())
        })
    }

    /// Waits until the only record of that capture is in one of these states.
    pub fn wait_capture(&mut self, capture: &str, states: &[&str]) -> Result<Record> {
        self.wait(&format!("{capture} to be {states:?}"), SOON, |records| {
            let mut own = records.iter().filter(|record| record.capture() == capture);
            let first = own.next()?;
            (own.next().is_none() && states.contains(&first.state())).then(|| first.clone())
        })
    }

    /// Waits until the files of the only record of that pod hold so many numbered packets to that port.
    pub fn wait_on_disk(&mut self, pod: &str, port: u16, packets: usize) -> Result<()> {
        self.wait(&format!("{packets} packets of {pod} on disk"), SOON, |records| {
            let own = records.iter().find(|record| record.pod() == pod)?;
            // Files that come and go meanwhile are looked at again.
            own.numbers(port).is_ok_and(|numbers| numbers.len() == packets).then_some(())
        })
    }

    /// The directory that holds all the others, and nothing else.
    pub fn home(&self) -> &Path {
        self.scratch.path()
    }

    /// Where its log goes.
    pub fn log_file(&self) -> PathBuf {
        self.scratch.path().join("log")
    }

    /// What it has logged, the last 100 lines.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(100)..].join("\n")
    }
}

fn spawn(home: &Path, arguments: &[String]) -> Result<Process> {
    let log = File::options().create(true).append(true).open(home.join("log"))?;
    let mut command = Command::new(program("capture-daemon")?);
    command.arg("run").arg("--pods").arg(home.join("pods")).arg("--data-dir").arg(home.join("data"));
    command.args(arguments).stdout(log.try_clone()?).stderr(log);
    Process::start(&mut command)
}

/// States of a run that is attached.
pub const ATTACHED: [&str; 2] = ["WaitingForTraffic", "Capturing"];
