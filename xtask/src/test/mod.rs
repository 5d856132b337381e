//! Runs the tests and adds up what they say.

mod kernels;
mod total;

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::build;
use crate::setup::{self, Purpose, is_root};
use crate::workspace::{cargo, root};
use total::Total;

/// Which tests; all of them when none is named.
#[derive(Args)]
pub(crate) struct Selection {
    /// Tests that need no privilege
    #[arg(long)]
    unit: bool,
    /// Tests on this kernel (root only)
    #[arg(long)]
    kernel: bool,
    /// Tests on Debian's kernels 6.1 and 6.12, in QEMU
    #[arg(long)]
    kernels: bool,
    /// Only tests whose name contains this
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Needing root is the only reason for which this workspace ignores a test.
const NEEDS_ROOT: &str = "--ignored";

/// Runs the tests selected. The last line on standard output is `N passed, N failed`.
pub(crate) fn run(selection: &Selection) -> Result<()> {
    let all = !selection.unit && !selection.kernel && !selection.kernels;
    let (unit, kernel, kernels) = (all || selection.unit, all || selection.kernel, all || selection.kernels);
    if kernel && !is_root() {
        bail!(
            "tests on this kernel make network namespaces and load kernel programs: run as root, or with --unit"
        );
    }
    let mut purposes = vec![Purpose::Build];
    if kernel || kernels {
        purposes.extend([Purpose::Bpf, Purpose::Pods]);
    }
    if kernels {
        purposes.push(Purpose::Kernels);
    }
    setup::prepare(&purposes)?;
    if kernel || kernels {
        build::agent()?;
    }
    let name = selection.name.as_deref();
    let mut total = Total::default();
    if unit {
        total.add(cargo_test(&["--workspace", "--exclude", "capture-ebpf"], name, &[])?);
    }
    if kernel {
        let packages =
            ["--package", "capture-filter", "--package", "capture-daemon", "--lib", "--bins", "--tests"];
        total.add(cargo_test(&packages, name, &[NEEDS_ROOT])?);
        // Floods and timing: one at a time.
        let packages = ["--package", "podtap-tests", "--lib", "--bins", "--tests"];
        total.add(cargo_test(&packages, name, &[NEEDS_ROOT, "--test-threads=1"])?);
    }
    if kernels {
        total.add(kernels::run(name)?);
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
    if let Some(stdout) = child.stdout.take() {
        let mut out = std::io::stdout().lock();
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.context("reading the output of cargo test")?;
            out.write_all(&line).and_then(|()| out.write_all(b"\n"))?;
            total.read_line(&String::from_utf8_lossy(&line));
        }
    }
    let status = child.wait()?;
    // A crash or a compiler error leaves no count of its own.
    if !status.success() && total.failed == 0 {
        eprintln!("error: cargo test: {status}");
        total.failed += 1;
    }
    Ok(total)
}
