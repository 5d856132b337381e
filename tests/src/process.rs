//! Child processes that end with whoever started them.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// A running process, killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it, without input.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn();
        child.map(|child| Self { child }).with_context(|| format!("cannot start {command:?}"))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal, for instance `libc::SIGTERM`.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let id = i32::try_from(self.child.id())?;
        // SAFETY: kill takes no pointer; the child was not waited for yet, so the id is still its own.
        if unsafe { libc::kill(id, signal) } != 0 {
            return Err(std::io::Error::last_os_error()).context("kill");
        }
        Ok(())
    }

    /// Allows it so many open files from now on (those that it has stay), and gives how many it could have.
    pub fn limit_files(&self, files: u64) -> Result<u64> {
        let id = i32::try_from(self.child.id())?;
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel writes one rlimit there.
        let mut status = unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before) };
        if status == 0 {
            let after = libc::rlimit { rlim_cur: files, ..before };
            // SAFETY: the kernel reads one rlimit from there.
            status =
                unsafe { libc::prlimit(id, libc::RLIMIT_NOFILE, &raw const after, std::ptr::null_mut()) };
        }
        if status != 0 {
            return Err(std::io::Error::last_os_error()).context("prlimit");
        }
        Ok(before.rlim_cur)
    }

    /// Waits for its end; an error when it is not over in time.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("process {} still runs after {timeout:?}", self.child.id());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it at once and waits.
    pub fn kill(&mut self) {
        // Fails only when it is over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program to its end and gives what it printed; what it said on standard error goes into the error.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// Runs a program that reads `input`, and gives what it printed; it is ended and an error when it takes longer than
/// `limit`.
pub fn output_within(command: &mut Command, input: &str, limit: Duration) -> Result<String> {
    use std::io::{Read, Write};
    fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is as good.
            let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut process = Process { child };
    let (stdin, input) = (process.child.stdin.take(), input.to_owned());
    // A program that does not read all of it says why by its status.
    std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
    let (stdout, stderr) = (collect(process.child.stdout.take()), collect(process.child.stderr.take()));
    let status = process.wait(limit);
    // Ends it when it is late, and with it the pipes.
    drop(process);
    let (text, said) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    let status = status.with_context(|| format!("{command:?}\n{text}{said}"))?;
    if !status.success() {
        bail!("{command:?}: {status}\n{text}{said}");
    }
    Ok(text)
}

/// Runs a program that reads `input`.
pub fn feed(command: &mut Command, input: &str) -> Result<()> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    // Closed after this statement; a program that ends early says so by its status.
    let written = child.stdin.take().context("no pipe")?.write_all(input.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}\nfor:\n{input}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    written.context("writing to a pipe")
}

/// A program that this workspace built for use: in `PODTAP_BIN_DIR`, else the release build.
pub fn program(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("PODTAP_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => target().join("release"),
    };
    let path = directory.join(name);
    if !path.is_file() {
        bail!("there is no {}: run `cargo xtask build` first", path.display());
    }
    Ok(path)
}

/// Whether `PODTAP_SLOW_MACHINE` is set: on an emulated machine, how fast something is says nothing.
pub fn is_slow_machine() -> bool {
    std::env::var_os("PODTAP_SLOW_MACHINE").is_some()
}

/// Cargo's target directory.
pub fn target() -> PathBuf {
    let mut root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.pop();
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root.join(directory),
        None => root.join("target"),
    }
}
