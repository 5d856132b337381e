//! Runs the tests and adds up what they say.

mod cluster;
mod kernels;
mod total;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
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
    /// Tests on a Kubernetes with two nodes, brought up for that unless it is there (root only)
    #[arg(long)]
    cluster: bool,
    /// Tests on the Kubernetes that this file leads to, which has podtap's image
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    kubeconfig: Option<PathBuf>,
    /// Only tests whose name contains this
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Needing root, or a cluster, are the only reasons for which this workspace ignores a test.
const IGNORED: &str = "--ignored";

/// Runs the tests selected. The last line on standard output is `N passed, N failed`.
pub(crate) fn run(selection: &Selection) -> Result<()> {
    let all = !selection.unit
        && !selection.kernel
        && !selection.kernels
        && !selection.cluster
        && selection.kubeconfig.is_none();
    let (unit, kernel, kernels) = (all || selection.unit, all || selection.kernel, all || selection.kernels);
    let cluster = all || selection.cluster;
    if (kernel || cluster) && !is_root() {
        bail!(
            "tests on this kernel make network namespaces and load kernel programs: run as root, or with --unit"
        );
    }
    let mut purposes = vec![Purpose::Build];
    if kernel || kernels || cluster {
        purposes.extend([Purpose::Bpf, Purpose::Pods]);
    }
    if kernels {
        purposes.push(Purpose::Kernels);
    }
    if cluster {
        purposes.extend([Purpose::Cluster, Purpose::Image]);
    }
    if selection.kubeconfig.is_some() {
        purposes.push(Purpose::Pods);
    }
    setup::prepare(&purposes)?;
    if kernel || kernels {
        build::agent()?;
    }
    let name = selection.name.as_deref();
    let mut total = Total::default();
    if unit {
        let packages = &["--workspace", "--exclude", "capture-ebpf"];
        total.add(cargo_test(&Harness { packages, name, ..Harness::default() })?);
    }
    if kernel {
        let packages =
            &["--package", "capture-filter", "--package", "capture-daemon", "--lib", "--bins", "--tests"];
        total.add(cargo_test(&Harness { packages, name, arguments: &[IGNORED], ..Harness::default() })?);
        let programs = agent_tests()?;
        let mut packages = vec!["--package", "podtap-tests", "--lib", "--bins"];
        packages.extend(programs.iter().flat_map(|program| ["--test", program]));
        // Floods and timing: one at a time.
        let arguments = &[IGNORED, "--test-threads=1"];
        total.add(cargo_test(&Harness { packages: &packages, name, arguments, ..Harness::default() })?);
    }
    if kernels {
        total.add(kernels::run(name)?);
    }
    if cluster {
        total.add(cluster::run_on_own(name)?);
    }
    if let Some(kubeconfig) = &selection.kubeconfig {
        total.add(cluster::run_on(kubeconfig, name)?);
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

/// Test programs of the agent as a whole: all that need no cluster.
fn agent_tests() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("tests/tests"))? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("a test without name")?;
        if path.extension().is_some_and(|extension| extension == "rs") && !name.starts_with(cluster::PREFIX) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// What `cargo test` is to run.
#[derive(Default)]
struct Harness<'a> {
    /// Arguments of cargo that choose the programs.
    packages: &'a [&'a str],
    /// What a test's name has to contain.
    name: Option<&'a str>,
    /// Arguments of the programs.
    arguments: &'a [&'a str],
    /// Their environment.
    variables: &'a [(&'a str, &'a Path)],
}

fn cargo_test(harness: &Harness<'_>) -> Result<Total> {
    let mut command = Command::new(cargo());
    command.args(["test", "--no-fail-fast"]).args(harness.packages).args(harness.name);
    command.arg("--").args(harness.arguments).envs(harness.variables.iter().copied());
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
