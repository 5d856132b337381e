//! What was done, how it went, and how long it took.

use std::time::Instant;

use anyhow::Result;

use super::total::Total;

/// What was done, in the order of its end.
#[derive(Default)]
pub(super) struct Parts {
    lines: Vec<String>,
    total: Total,
}

impl Parts {
    /// Does what makes no total.
    pub(super) fn prepare<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let made = work()?;
        self.lines.push(format!("{what:<36} {:>14} {:>7.0} s", "", start.elapsed().as_secs_f64()));
        Ok(made)
    }

    /// Runs tests.
    pub(super) fn test(&mut self, what: &str, work: impl FnOnce() -> Result<Total>) -> Result<()> {
        let start = Instant::now();
        let total = work()?;
        self.tested(what, total, start);
        Ok(())
    }

    /// Adds tests that began then and are over now.
    pub(super) fn tested(&mut self, what: &str, total: Total, start: Instant) {
        let counts = format!("{} of {}", total.passed, total.passed + total.failed);
        self.lines.push(format!("{what:<36} {counts:>14} {:>7.0} s", start.elapsed().as_secs_f64()));
        self.total.add(total);
    }

    /// Says all of it.
    pub(super) fn report(self) -> Total {
        println!("\n{:<36} {:>14} {:>9}", "", "passed", "time");
        for line in self.lines {
            println!("{line}");
        }
        self.total
    }
}
