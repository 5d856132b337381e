//! Runs the tests and adds up what they say.

mod cluster;
mod harness;
mod kernels;
mod parts;
mod programs;
mod total;

use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::Args;

use crate::build;
use crate::setup::{self, Purpose, is_root};
use harness::{Run, side_by_side};
use parts::Parts;
use programs::{Program, Programs, Wanted};
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

/// The program whose tests run the agent as a whole.
const AGENT: &str = "podtap-tests-agent";

/// Its module of tests that have the machine for themselves.
const ALONE: &str = "alone::";

/// How many of its other tests run at once. They mostly wait.
const AT_ONCE: usize = 3;

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
    let mut parts = Parts::default();
    parts.prepare("finding and installing what is needed", || setup::prepare(&purposes))?;
    let wanted = if unit || kernel || kernels { Wanted::All } else { Wanted::Cluster };
    let programs = parts.prepare("building", || build(wanted, kernel || kernels, cluster))?;
    let name = selection.name.as_deref();
    if unit {
        parts.test("without privilege", || run_unprivileged(&programs, name))?;
    }
    thread::scope(|scope| {
        let start = Instant::now();
        // Beside tests of which many wait.
        let machines = kernels.then(|| scope.spawn(|| kernels::run(&programs, name, !kernel)));
        if kernel {
            parts.test("on this kernel", || run_on_this_kernel(&programs, name))?;
        }
        if let Some(machines) = machines {
            let total = machines.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
            let what = if kernel { "on other kernels, beside that" } else { "on other kernels" };
            parts.tested(what, total, start);
        }
        anyhow::Ok(())
    })?;
    if cluster {
        parts.test("on a cluster, with its making", || cluster::run_on_own(&programs, name))?;
    }
    if let Some(kubeconfig) = &selection.kubeconfig {
        parts.test("on that cluster", || cluster::run_on(kubeconfig, &programs, name))?;
    }
    let total = parts.report();
    println!("\n{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 {
        bail!("tests failed");
    }
    if total.passed == 0 {
        bail!("no test ran");
    }
    Ok(())
}

/// Builds the tests, and what they run.
fn build(wanted: Wanted, agent: bool, image: bool) -> Result<Programs> {
    if !agent && !image {
        return Programs::build(wanted);
    }
    // Both of the builds below embed them.
    build::kernel_programs()?;
    thread::scope(|scope| {
        // Beside each other: neither keeps two cores busy from its beginning to its end.
        let released = scope.spawn(|| match image {
            true => build::image_programs().map(drop),
            false => build::agent_and_sender(),
        });
        let programs = Programs::build(wanted);
        released.join().unwrap_or_else(|_| bail!("a thread panicked"))?;
        programs
    })
}

/// The tests that need nothing.
fn run_unprivileged(programs: &Programs, name: Option<&str>) -> Result<Total> {
    let mut runs = Vec::new();
    for program in &programs.tests {
        let tests = program.list(false, name)?;
        if !tests.is_empty() {
            runs.push(Run { program, tests, privileged: false, at_once: None, variables: &[] });
        }
    }
    side_by_side(&runs, 2)
}

/// The tests that need root.
fn run_on_this_kernel(programs: &Programs, name: Option<&str>) -> Result<Total> {
    let mut total = Total::default();
    let mut run = |program: &Program, tests: Vec<String>, at_once| -> Result<()> {
        if !tests.is_empty() {
            total.add(Run { program, tests, privileged: true, at_once, variables: &[] }.shown()?);
        }
        Ok(())
    };
    for program in programs.tests.iter().filter(|program| !program.needs_cluster()) {
        let tests = program.list(true, name)?;
        if program.name() == AGENT {
            let (alone, together) = tests.into_iter().partition(|test| test.starts_with(ALONE));
            run(program, alone, Some(1))?;
            run(program, together, Some(AT_ONCE))?;
        } else {
            // What the agent's tests are made of keeps to times, too.
            run(program, tests, (program.package == "podtap-tests").then_some(1))?;
        }
    }
    Ok(total)
}
