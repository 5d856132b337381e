//! Runs the tests and adds up what they say.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build;
use crate::setup::{self, Purpose, is_root};
use crate::workspace::{cargo, root};

/// Which tests; all of them when none is named.
#[derive(Args)]
pub(crate) struct Selection {
    /// Tests that need no privilege
    #[arg(long)]
    unit: bool,
    /// Tests on this kernel (root only)
    #[arg(long)]
    kernel: bool,
    /// Only tests whose name contains this
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Passed and failed tests.
#[derive(Default, Clone, Copy)]
struct Total {
    passed: u64,
    failed: u64,
}

impl Total {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs the tests selected. The last line on standard output is `N passed, N failed`.
pub(crate) fn run(selection: &Selection) -> Result<()> {
    let all = !selection.unit && !selection.kernel;
    let (unit, kernel) = (all || selection.unit, all || selection.kernel);
    if kernel && !is_root() {
        bail!(
            "tests on this kernel make network namespaces and load kernel programs: run as root, or with --unit"
        );
    }
    let mut purposes = vec![Purpose::Build, Purpose::Pods];
    if kernel {
        purposes.push(Purpose::Bpf);
    }
    setup::prepare(&purposes)?;
    if kernel {
        build::agent()?;
    }
    let name = selection.name.as_deref();
    let mut total = Total::default();
    if unit {
        total.add(cargo_test(&["--workspace", "--exclude", "capture-ebpf"], name, &[])?);
    }
    if kernel {
        // Needing root is the only reason for which this workspace ignores a test.
        let ignored = ["--ignored"];
        let quick =
            ["--package", "capture-filter", "--package", "capture-daemon", "--lib", "--bins", "--tests"];
        total.add(cargo_test(&quick, name, &ignored)?);
        // Floods and timing: one at a time.
        let alone = ["--ignored", "--test-threads=1"];
        total.add(cargo_test(&["--package", "podtap-tests", "--lib", "--bins", "--tests"], name, &alone)?);
    }
    println!("\n{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!("tests failed");
    }
    if total.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

fn cargo_test(packages: &[&str], name: Option<&str>, harness: &[&str]) -> Result<Total> {
    let mut command = Command::new(cargo());
    command.args(["test", "--no-fail-fast"]).args(packages).args(name).arg("--").args(harness);
    let mut child =
        command.current_dir(root()).stdout(Stdio::piped()).spawn().context("cannot start cargo test")?;
    let mut total = Total::default();
    let mut binaries = 0u32;
    if let Some(stdout) = child.stdout.take() {
        let mut out = std::io::stdout().lock();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("reading the output of cargo test")?;
            out.write_all(&line).and_then(|()| out.write_all(b"\n"))?;
            if let Some(one) = result_line(&String::from_utf8_lossy(&line)) {
                total.add(one);
                binaries += 1;
            }
        }
    }
    let status = child.wait()?;
    // A crash or a compiler error leaves no count of its own.
    if !status.success() && total.failed == 0 {
        eprintln!("error: cargo test: {status} after {binaries} test programs");
        total.failed += 1;
    }
    Ok(total)
}

/// Reads libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
fn result_line(line: &str) -> Option<Total> {
    let counts = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let number = |word: &str| {
        let part = counts.split("; ").find(|part| part.ends_with(word))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Total { passed: number(" passed")?, failed: number(" failed")? })
}

#[cfg(test)]
mod tests {
    use super::result_line;

    #[test]
    fn counts_are_read_from_libtest() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        let total = result_line(line).unwrap();
        assert_eq!((total.passed, total.failed), (12, 3));
        assert!(result_line("test a ... ok").is_none());
    }
}
