//! The compiler's child: both sides of the pipe.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::answer::{self, MAX_ANSWER};
use crate::text::MAX_TEXT;
use crate::{ClassicProgram, FilterError, compile, sandbox};

/// Longest time that an answer may take, however little the child computes: on a node with no CPU time to spare, its
/// one second of that may last long. What takes longer is not refused, only not known yet.
pub const WALL_CLOCK: Duration = Duration::from_secs(5);

/// What a `main` runs when it is started as [`ChildCommand`] says: reads a text from standard input until its end,
/// compiles it, and writes the answer to standard output, after giving up everything that this does not take.
pub fn child_main() -> ExitCode {
    // Whatever happens, the parent learns it from the answer, or from its absence.
    let answer = match sandbox::enter() {
        Ok(()) => received().and_then(|text| compile::instructions(&compile::libpcap(&text)?)),
        Err(error) => Err(FilterError::Unavailable { reason: format!("giving up privileges: {error}") }),
    };
    match io::stdout().write_all(&answer::write(answer)).and_then(|()| io::stdout().flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn received() -> Result<String, FilterError> {
    let mut bytes = Vec::with_capacity(MAX_TEXT + 1);
    let limit = MAX_TEXT as u64 + 1;
    if let Err(error) = io::stdin().take(limit).read_to_end(&mut bytes) {
        return Err(FilterError::Unavailable { reason: format!("reading the text: {error}") });
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        FilterError::NotText { byte: error.as_bytes()[offset], offset }
    })
}

/// How to start the child.
#[derive(Debug, Clone)]
pub struct ChildCommand {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Default for ChildCommand {
    /// This executable, as `compile-filter`.
    fn default() -> Self {
        Self { program: "/proc/self/exe".into(), arguments: vec!["compile-filter".into()] }
    }
}

impl ChildCommand {
    /// Compiles a text in a child; returns when the child is gone.
    pub(crate) fn ask(&self, text: &str) -> Result<ClassicProgram, FilterError> {
        let unavailable =
            |what: &str, error: io::Error| FilterError::Unavailable { reason: format!("{what}: {error}") };
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| unavailable("starting it", error))?;
        let deadline = Instant::now() + WALL_CLOCK;
        let answer = converse(&mut child, text, deadline);
        let ended = end(&mut child, deadline).map_err(|error| unavailable("waiting for it", error))?;
        let answer = answer.map_err(|error| unavailable("talking to it", error))?;
        answer::read(&answer).unwrap_or_else(|| Err(why(answer.len(), ended)))
    }
}

/// Sends the text and receives what comes back before the deadline, up to the longest answer there is.
fn converse(child: &mut Child, text: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    if let Some(mut stdin) = child.stdin.take() {
        // At most a page, so the pipe takes it at once. A child that is gone already has left an answer or not.
        match stdin.write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    let mut answer = Vec::new();
    let Some(mut stdout) = child.stdout.take() else { return Ok(answer) };
    let mut buffer = [0; 8192];
    while answer.len() <= MAX_ANSWER && wait(&stdout, deadline)? {
        match stdout.read(&mut buffer) {
            Ok(0) => break,
            Ok(received) => answer.extend_from_slice(&buffer[..received]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// How a child ended.
enum End {
    /// It was killed at the deadline.
    Late,
    /// Otherwise, after so much CPU time.
    Over(ExitStatus, Duration),
}

/// Waits for the child until the deadline, then kills it. Leaves no zombie.
fn end(child: &mut Child, deadline: Instant) -> io::Result<End> {
    // Without a pidfd there is no waiting: the kill below takes its place.
    let pidfd = Pid::from_raw(child.id().cast_signed()).map(|pid| pidfd_open(pid, PidfdFlags::empty()));
    if let Some(Ok(pidfd)) = pidfd {
        // When it fails, what follows finds out.
        let _ = wait(&pidfd, deadline);
    }
    if let Some((status, cpu)) = reap(child)? {
        return Ok(End::Over(status, cpu));
    }
    child.kill()?;
    child.wait()?;
    Ok(End::Late)
}

/// The status of a child that has ended, and the CPU time that it had used: wait4(2). None while it runs. Afterwards
/// there is no such child any more.
fn reap(child: &Child) -> io::Result<Option<(ExitStatus, Duration)>> {
    let mut status = 0;
    // SAFETY: all of it is integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are written to by this call only.
    match unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, libc::WNOHANG, &raw mut usage) } {
        ..0 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        1.. => {
            let cpu = [usage.ru_utime, usage.ru_stime].map(|time| {
                let microseconds = u64::try_from(time.tv_usec).unwrap_or(0);
                Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0))
                    + Duration::from_micros(microseconds)
            });
            Ok(Some((ExitStatus::from_raw(status), cpu[0] + cpu[1])))
        }
    }
}

/// True when there is something to read (or to wait for) before the deadline.
fn wait(fd: &impl std::os::fd::AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why there was no answer, of which `received` bytes came. Only what the text alone can have done is its fault: who
/// kills a child for lack of memory or time, or does not let it begin, has not looked at the text.
fn why(received: usize, ended: End) -> FilterError {
    let exhausted = |reason: String| FilterError::Exhausted { reason };
    let unavailable = |reason: String| FilterError::Unavailable { reason };
    let too_slow = || exhausted(format!("it took more than {} s of CPU time", sandbox::CPU_SECONDS));
    match ended {
        _ if received > MAX_ANSWER => exhausted("the compiler gave no answer that it can give".into()),
        End::Late => unavailable(format!("it took longer than {} s", WALL_CLOCK.as_secs())),
        End::Over(status, cpu) => match status.signal() {
            Some(libc::SIGXCPU) => too_slow(),
            Some(libc::SIGKILL) if cpu.as_secs() >= sandbox::CPU_SECONDS => too_slow(),
            Some(libc::SIGABRT) => {
                exhausted(format!("it needs more than {} MiB", sandbox::ADDRESS_SPACE >> 20))
            }
            Some(
                signal @ (libc::SIGSEGV
                | libc::SIGBUS
                | libc::SIGILL
                | libc::SIGFPE
                | libc::SIGSYS
                | libc::SIGTRAP),
            ) => exhausted(format!("the compiler crashed (signal {signal})")),
            Some(signal) => unavailable(format!("it was ended by signal {signal}")),
            None => unavailable(format!("it ended without an answer ({status})")),
        },
    }
}
