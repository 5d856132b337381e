//! A machine in QEMU whose console is read until it has said all.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::choice::Choice;
use super::image::{DONE, ENDED};
use crate::test::total::Total;

/// How long one kernel may take in all. It takes some minutes, more beside other tests.
const PATIENCE: Duration = Duration::from_secs(900);

/// The machines' part of the processor beside what measures times. Not the least, as times pass in them, too.
const NICE: &str = "10";

/// How much of the console is said again when it did not come to its end.
const TAIL: usize = 30;

/// A machine that runs tests on a kernel.
pub(super) struct Machine {
    /// The kernel's version, as people say it.
    pub(super) version: &'static str,
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// Its initial file system.
    pub(super) initial: PathBuf,
    /// Whether what it says is shown at once, and not at its end.
    pub(super) shown: bool,
}

impl Machine {
    /// Boots it and counts what its tests say.
    pub(super) fn run(&self, choice: &Choice<'_>) -> Result<Total> {
        let mut child = self.qemu().spawn().context("cannot start qemu-system-x86_64")?;
        let start = Instant::now();
        let lines = BufReader::new(child.stdout.take().context("no pipe")?).split(b'\n');
        let (send, receive) = channel();
        let reader = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = send.send(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        });
        let mut console = Console::default();
        while let Ok(line) = receive.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
            if self.shown {
                println!("linux {}: {line}", self.version);
            }
            console.read_line(line);
        }
        let in_time = start.elapsed() < PATIENCE;
        // Over by itself, or beyond its time.
        let _ = child.kill();
        child.wait()?;
        let _ = reader.join();
        let total = console.total(choice);
        self.report(&console, total, start.elapsed(), in_time)?;
        Ok(total)
    }

    fn qemu(&self) -> Command {
        let mut qemu = Command::new("nice");
        qemu.args(["-n", NICE, "qemu-system-x86_64"]);
        // In software: nested virtualization, where it is offered, does not always work. In one thread: with one for each
        // CPU, one may run code that the other has just patched, and Linux patches itself when static keys flip.
        qemu.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "2048"]);
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        qemu.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1", "-kernel"]).arg(&self.kernel);
        qemu.arg("-initrd").arg(&self.initial).stdin(Stdio::null()).stdout(Stdio::piped());
        qemu
    }

    /// Says how it went, and what has not been said yet.
    fn report(&self, console: &Console, total: Total, took: Duration, in_time: bool) -> Result<()> {
        let version = self.version;
        let mut out = std::io::stdout().lock();
        if !self.shown {
            writeln!(out)?;
            for line in &console.said {
                writeln!(out, "linux {version}: {line}")?;
            }
        }
        if !console.done {
            let why = if in_time { "ended" } else { "was stopped" };
            eprintln!("error: linux {version} {why} after {took:?} with tests left. Its last words:");
            for line in &console.said[console.said.len().saturating_sub(TAIL)..] {
                eprintln!("    {line}");
            }
        }
        let (passed, failed, seconds) = (total.passed, total.failed, took.as_secs_f64());
        writeln!(out, "linux {version}: {passed} passed, {failed} failed in {seconds:.0} s")?;
        Ok(())
    }
}

/// What a machine has said.
#[derive(Default)]
struct Console {
    said: Vec<String>,
    counted: Total,
    /// What was counted when the program before this one ended.
    before: Total,
    /// Programs that did not end as they should, beside failed tests: crashed, or with another count of tests.
    broken: u64,
    done: bool,
}

impl Console {
    fn read_line(&mut self, line: String) {
        self.counted.read_line(&line);
        if let Some(status) = line.strip_prefix(ENDED) {
            let succeeded = status.ends_with(" 0");
            let new_failures = self.counted.failed - self.before.failed;
            if !succeeded && new_failures == 0 {
                self.broken += 1;
            }
            self.before = self.counted;
        }
        self.done |= line == DONE;
        self.said.push(line);
    }

    /// Tests of which nothing was heard count as failed.
    fn total(&self, choice: &Choice<'_>) -> Total {
        let expected: usize = choice.parts.iter().map(|part| part.tests.len()).sum();
        let unheard = (expected as u64).saturating_sub(self.counted.passed + self.counted.failed);
        Total { failed: self.counted.failed + self.broken.max(unheard), ..self.counted }
    }
}

#[cfg(test)]
mod tests {
    use super::super::choice::Part;
    use super::*;
    use crate::test::programs::Program;

    fn total(lines: &[&str], tests: usize) -> (Total, bool) {
        let mut console = Console::default();
        for line in lines {
            console.read_line((*line).to_owned());
        }
        let program = Program {
            package: "p".to_owned(),
            target: "x".to_owned(),
            path: "x".into(),
            directory: "p".into(),
        };
        let part = Part { program: &program, tests: vec![String::new(); tests] };
        (console.total(&Choice { parts: vec![part], left_out: Vec::new() }), console.done)
    }

    #[test]
    fn what_is_not_heard_of_has_failed() {
        let ok = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let bad = "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let all = |passed, failed, done| (Total { passed, failed }, done);
        assert_eq!(total(&[ok, "test program ended: x 0", DONE], 2), all(2, 0, true));
        assert_eq!(total(&[bad, "test program ended: x 101", DONE], 2), all(1, 1, true));
        assert_eq!(total(&["test program ended: x 139", DONE], 2), all(0, 2, true));
        assert_eq!(total(&[ok, "test program ended: x 139", DONE], 2), all(2, 1, true));
        assert_eq!(total(&[ok, "test program ended: x 0"], 5), all(2, 3, false));
    }
}
