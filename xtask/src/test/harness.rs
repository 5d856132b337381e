//! Running test programs, and reading what they say.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};

use super::programs::Program;
use super::total::Total;
use crate::workspace::own;

/// Some tests of a program.
pub(super) struct Run<'a> {
    /// The program.
    pub(super) program: &'a Program,
    /// Its tests, all of one kind.
    pub(super) tests: Vec<String>,
    /// Whether that kind is those that need root or a cluster.
    pub(super) privileged: bool,
    /// How many at once; as many as there are cores when none.
    pub(super) at_once: Option<usize>,
    /// What is set in its environment.
    pub(super) variables: &'a [(&'a str, &'a Path)],
}

impl Run<'_> {
    /// Runs them with the output on the terminal.
    pub(super) fn shown(&self) -> Result<Total> {
        let mut child = self.command().stdout(Stdio::piped()).spawn().with_context(|| self.program.name())?;
        let mut total = Total::default();
        if let Some(stdout) = child.stdout.take() {
            // Kept until its end: nobody else speaks in between.
            let mut out = std::io::stdout().lock();
            writeln!(out, "\n{}", self.heading())?;
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line.context("reading the output of a test program")?;
                out.write_all(&line).and_then(|()| out.write_all(b"\n"))?;
                total.read_line(&String::from_utf8_lossy(&line));
            }
        }
        Ok(self.total(total, child.wait()?))
    }

    /// Runs them silently, and shows the output when they are over.
    fn shown_at_its_end(&self) -> Result<Total> {
        let directory = own().join("said");
        std::fs::create_dir_all(&directory)?;
        // Not a pipe: somebody whom a test left behind may keep that open.
        let path = directory.join(self.program.name());
        let file = File::create(&path).with_context(|| path.display().to_string())?;
        let status = self.command().stdout(file.try_clone()?).stderr(file).status()?;
        let said = std::fs::read(&path)?;
        let mut total = Total::default();
        String::from_utf8_lossy(&said).lines().for_each(|line| total.read_line(line));
        let mut out = std::io::stdout().lock();
        writeln!(out, "\n{}", self.heading())?;
        out.write_all(&said)?;
        Ok(self.total(total, status))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program.path);
        // As cargo would start it.
        command.current_dir(&self.program.directory).env("CARGO_MANIFEST_DIR", &self.program.directory);
        command.envs(self.variables.iter().copied()).stdin(Stdio::null());
        if self.privileged {
            command.arg("--ignored");
        }
        if let Some(threads) = self.at_once {
            command.arg(format!("--test-threads={threads}"));
        }
        command.arg("--exact").args(&self.tests);
        command
    }

    fn heading(&self) -> String {
        format!("     Running {} ({})", self.program.name(), self.program.path.display())
    }

    /// A crash leaves no count of its own.
    fn total(&self, mut total: Total, status: ExitStatus) -> Total {
        if !status.success() && total.failed == 0 {
            eprintln!("error: {}: {status}", self.program.name());
            total.failed += 1;
        }
        total
    }
}

/// Runs some programs, so many at a time, and shows what each said when it is over.
pub(super) fn side_by_side(runs: &[Run<'_>], at_once: usize) -> Result<Total> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Total> {
        let mut total = Total::default();
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            total.add(run.shown_at_its_end()?);
        }
        Ok(total)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let mut total = Total::default();
        for worker in workers {
            total.add(worker.join().unwrap_or_else(|_| bail!("a thread panicked"))?);
        }
        Ok(total)
    })
}
