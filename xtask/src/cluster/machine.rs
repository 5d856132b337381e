//! A machine of the cluster: processes that see each other only, with mounts of their own. The kernel takes all of that
//! away when the machine's first process is killed, which is the only process that this has to know.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::layout::{home, logs};
use crate::command::output;

const BOOT: &str = include_str!("boot.sh");

/// How long anything that should happen at once may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// How often something that is waited for is looked at, when looking costs nothing.
const PAUSE: Duration = Duration::from_millis(20);

/// One machine, whether it runs or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Its name.
    pub(super) name: &'static str,
    /// Its network namespace; the host's when there is none.
    pub(super) netns: Option<&'static str>,
    /// Whether it has directories of its own for what containers leave on a node.
    pub(super) has_disk: bool,
}

/// A process as it can be told from any other that had or will have the same number.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    pid: u32,
    started: u64,
    boot: String,
}

impl Identity {
    /// From a line of `/proc/PID/stat` (proc_pid_stat(5)) and the boot's id.
    fn parse(stat: &str, boot: &str) -> Option<Self> {
        let (pid, _) = stat.split_once(' ')?;
        // The name, in brackets, may hold anything. The first field after it is the third.
        let (_, fields) = stat.rsplit_once(") ")?;
        let started = fields.split(' ').nth(22 - 3)?;
        Some(Self {
            pid: pid.parse().ok()?,
            started: started.trim().parse().ok()?,
            boot: boot.trim().to_owned(),
        })
    }

    /// What has that number now.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&stat, &fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?)
    }
}

impl Machine {
    /// Where its first process says who it is.
    fn identity_file(&self) -> PathBuf {
        home().join(format!("{}.process", self.name))
    }

    /// Where its files are.
    pub(super) fn disk(&self) -> PathBuf {
        home().join(self.name)
    }

    /// Its first process, when that runs.
    pub(super) fn process(&self) -> Option<u32> {
        let text = fs::read_to_string(self.identity_file()).ok()?;
        let (stat, boot) = text.split_once('\n')?;
        let recorded = Identity::parse(stat, boot)?;
        (Identity::of(recorded.pid)? == recorded).then_some(recorded.pid)
    }

    /// Starts it, unless it runs.
    pub(super) fn boot(&self) -> Result<()> {
        if self.process().is_some() {
            return Ok(());
        }
        fs::create_dir_all(logs())?;
        let mut command = match self.netns {
            None => Command::new("unshare"),
            Some(name) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{name}")).arg("unshare");
                command
            }
        };
        command.args([
            "--fork",
            "--pid",
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            BOOT,
            "podtap-machine",
        ]);
        command.arg(self.identity_file());
        command.arg(if self.has_disk { self.disk() } else { PathBuf::new() });
        let log = log(self.name)?;
        detached(&mut command)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start unshare")?;
        wait(&format!("{} to start", self.name), || {
            self.file("/run/booted").is_some_and(|file| file.exists())
        })
    }

    /// Ends it and everything on it, at once.
    pub(super) fn kill(&self) -> Result<()> {
        if let Some(pid) = self.process() {
            output(Command::new("kill").args(["-KILL", &pid.to_string()]))?;
            // It is the last of its namespace to go.
            wait(&format!("{} to end", self.name), || self.process().is_none())?;
        }
        match fs::remove_file(self.identity_file()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// A file of it, as seen from outside; none when it does not run.
    pub(super) fn file(&self, path: &str) -> Option<PathBuf> {
        Some(PathBuf::from(format!("/proc/{}/root{path}", self.process()?)))
    }

    /// A program on it, with little in its environment.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let pid = self.process().with_context(|| format!("{} does not run", self.name))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid.to_string(), "--mount", "--pid"]);
        if let Some(name) = self.netns {
            command.arg(format!("--net=/run/netns/{name}"));
        }
        command
            .arg("--")
            .arg(program)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/");
        Ok(command)
    }

    /// Starts a program that stays, unless it runs; one that hangs goes on.
    pub(super) fn start(&self, service: &Service) -> Result<()> {
        if self.signal(service, "CONT")? {
            return Ok(());
        }
        // In the background of a shell that ends, so that it is a child of the machine's first process.
        const START: &str = r#"file=$1; shift; setsid sh -c 'echo $$ >"$0"; exec "$@"' "$file" "$@" &"#;
        let log = log(&format!("{}-{}", self.name, service.name))?;
        let mut command = self.command("sh")?;
        command.args(["-c", START, "sh", &service.pid_file()]).arg(&service.program).args(&service.arguments);
        let mut shell = detached(&mut command).stdout(log.try_clone()?).stderr(log).spawn()?;
        shell.wait()?;
        wait(&format!("{} to start", service.name), || self.pid_of(service).is_some())
    }

    /// Sends a signal to a program that stays, such as `KILL`, `STOP` or `CONT`; false when it does not run.
    pub(super) fn signal(&self, service: &Service, signal: &str) -> Result<bool> {
        let Some(pid) = self.pid_of(service) else { return Ok(false) };
        output(self.command("kill")?.args([&format!("-{signal}"), &pid.to_string()]))?;
        if signal == "KILL" {
            // Buried, too: until its last thread has ended, what it listened on is still in use.
            let process = format!("/proc/{pid}");
            wait(&format!("{} to end", service.name), || {
                self.file(&process).is_none_or(|process| !process.exists())
            })?;
        }
        Ok(true)
    }

    /// Its process number within the machine, when it runs.
    pub(super) fn pid_of(&self, service: &Service) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.file(&service.pid_file())?).ok()?.trim().parse().ok()?;
        // The number may be another's by now.
        let words = fs::read(self.file(&format!("/proc/{pid}/cmdline"))?).ok()?;
        let first = words.split(|byte| *byte == 0).next()?;
        (first == service.program.as_os_str().as_encoded_bytes()).then_some(pid)
    }
}

/// A program that stays.
#[derive(Debug)]
pub(super) struct Service {
    /// What it is called here.
    pub(super) name: &'static str,
    /// Its file.
    pub(super) program: PathBuf,
    /// Its arguments.
    pub(super) arguments: Vec<String>,
}

impl Service {
    fn pid_file(&self) -> String {
        format!("/run/{}.pid", self.name)
    }
}

/// Without input, not ended by Ctrl-C, and with nothing open of what whoever called xtask has open: a lock or a pipe
/// would be held for as long as the cluster is up.
fn detached(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    let forget = || {
        // SAFETY: close_range(2) takes numbers only, and this flag leaves everything open until the program is replaced.
        match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) }
        {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    command.process_group(0).current_dir("/").stdin(Stdio::null());
    // SAFETY: between fork and exec it makes a system call and reads errno, no more.
    unsafe { command.pre_exec(forget) }
}

/// A log to write to, after what is in it.
fn log(name: &str) -> Result<File> {
    let path = log_file(name);
    File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())
}

/// The log of that name.
fn log_file(name: &str) -> PathBuf {
    logs().join(format!("{name}.log"))
}

/// Waits until something is so.
pub(super) fn wait(what: &str, is_so: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, SOON, PAUSE, is_so)
}

/// Waits until something is so, that long at most, looking that often.
pub(super) fn wait_for(
    what: &str,
    limit: Duration,
    pause: Duration,
    mut is_so: impl FnMut() -> bool,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !is_so() {
        if Instant::now() > deadline {
            bail!("waited {} s for {what}; the logs are in {}", limit.as_secs(), logs().display());
        }
        sleep(pause);
    }
    Ok(())
}

/// Removes a directory and what is in it; one that is not there is as good.
pub(super) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let stat = "4711 (a) b) (c) S 1 4711 4711 0 -1 4194560 1234 0 0 0 1 2 3 4 20 0 1 0 987654 1 2 3";
        let found = Identity::parse(stat, "boot\n").unwrap();
        assert_eq!(found, Identity { pid: 4711, started: 987_654, boot: "boot".to_owned() });
        let own = Identity::of(std::process::id()).unwrap();
        assert_eq!(own, Identity::of(std::process::id()).unwrap());
    }
}
