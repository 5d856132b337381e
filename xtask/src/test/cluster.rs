//! The tests on a cluster: our own, which is up for as long as they run, or one that the user has.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::harness::Run;
use super::programs::Programs;
use super::total::Total;
use crate::workspace::find_program;
use crate::{cluster, image};

/// Runs them on our own cluster, brought up before and taken away after unless it was up.
pub(super) fn run_on_own(programs: &Programs, name: Option<&str>) -> Result<Total> {
    let images = image::make_all()?;
    let was_up = cluster::up()?;
    let loaded = images.iter().try_for_each(|archive| cluster::load(archive));
    let tested =
        loaded.and_then(|()| run(&cluster::there()?, cluster::own_kubectl(), !was_up, programs, name));
    if was_up {
        return tested;
    }
    let gone = cluster::down();
    let mut total = tested?;
    // It says so itself when anything is left of it.
    if let Err(error) = gone {
        eprintln!("error: the cluster is not gone: {error:#}");
        total.failed += 1;
    }
    Ok(total)
}

/// Runs them on the cluster that this file leads to; it has podtap's image, or can fetch it.
pub(super) fn run_on(kubeconfig: &Path, programs: &Programs, name: Option<&str>) -> Result<Total> {
    let kubeconfig = std::path::absolute(kubeconfig)?;
    if !kubeconfig.is_file() {
        bail!("there is no {}", kubeconfig.display());
    }
    run(&kubeconfig, find_program("kubectl").or_else(cluster::own_kubectl), false, programs, name)
}

fn run(
    kubeconfig: &Path,
    kubectl: Option<PathBuf>,
    disposable: bool,
    programs: &Programs,
    name: Option<&str>,
) -> Result<Total> {
    let kubectl = kubectl.context("please install kubectl")?;
    let xtask = std::env::current_exe()?;
    let mut variables: Vec<(&str, &Path)> =
        vec![("PODTAP_KUBECONFIG", kubeconfig), ("PODTAP_KUBECTL", &kubectl), ("PODTAP_XTASK", &xtask)];
    // It was not there before and goes afterwards, so a test may take it away in between.
    if disposable {
        variables.push(("PODTAP_CLUSTER_DISPOSABLE", Path::new("1")));
    }
    let mut total = Total::default();
    for program in programs.tests.iter().filter(|program| program.needs_cluster()) {
        let tests = program.list(true, name)?;
        if !tests.is_empty() {
            // One at a time: some stop parts of the cluster.
            let run = Run { program, tests, privileged: true, at_once: Some(1), variables: &variables };
            total.add(run.shown()?);
        }
    }
    Ok(total)
}
