//! The demo: three pods talk to each other, two of them are captured, and other people's tools read the result.

mod check;
mod progress;
mod table;
mod talk;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::manifest;
use podtap_tests::pods::Pods;
use podtap_tests::record::Record;

use crate::build;
use crate::setup::{self, Purpose, is_root};
use crate::workspace::root;
use progress::Progress;

/// What can be chosen.
#[derive(Args)]
pub(crate) struct Options {
    /// Directory for the files; ./captures without it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The pods that ask for a capture by their label.
const CAPTURED: [&str; 2] = ["web", "client"];
/// A pod without the label.
const UNLABELLED: &str = "db";
/// Not a pod, but somebody elsewhere whom the unlabelled pod talks to.
const ELSEWHERE: &str = "elsewhere";

/// Runs it all.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !is_root() {
        bail!("the demo makes network namespaces and loads kernel programs: run it as root");
    }
    setup::prepare(&[Purpose::Build, Purpose::Bpf, Purpose::Pods, Purpose::Demo])?;
    eprintln!("building the agent");
    build::agent()?;
    let start = Instant::now();
    let keep = options.keep.clone().unwrap_or_else(|| root().join("captures"));
    std::fs::create_dir_all(&keep).with_context(|| format!("cannot make {}", keep.display()))?;

    let mut progress = Progress::new();
    progress.step("three pods on a bridge: web, client, and db, which nobody captures");
    let pods = Pods::with(&[CAPTURED[0], CAPTURED[1], UNLABELLED, ELSEWHERE])?;
    pods.introduce(UNLABELLED, ELSEWHERE)?;
    let servers = talk::Servers::start(&pods)?;

    progress.step("the agent, which finds the label on web and client");
    let mut agent = Agent::start("demo")?;
    for name in CAPTURED {
        agent.apply(&format!("{name}.yaml"), &manifest::labelled(pods.pod(name), &[]))?;
    }
    agent.apply("db.yaml", &manifest::pod(pods.pod(UNLABELLED)))?;
    for name in CAPTURED {
        agent.wait_pod(name, &ATTACHED)?;
    }

    talk::converse(&pods, &mut |what| progress.step(what))?;

    progress.step("removing the labels ends the captures");
    for name in CAPTURED {
        agent.apply(&format!("{name}.yaml"), &manifest::pod(pods.pod(name)))?;
    }
    let mut records = Vec::new();
    for name in CAPTURED {
        records.push(agent.wait_pod(name, &["Stopped"])?);
    }
    if let Some(other) = agent.records()?.iter().find(|record| !CAPTURED.contains(&record.pod())) {
        bail!("nobody asked for a capture of {}", other.pod());
    }
    agent.stop()?;
    let files = records.iter().map(|record| keep_files(record, &keep)).collect::<Result<Vec<_>>>()?;
    drop(servers);

    progress.step("reading the files with tshark, tcpdump and capinfos");
    let mut checks = Vec::new();
    for (name, files) in CAPTURED.iter().zip(&files) {
        checks.extend(check::conversations(&pods, name, files)?);
    }
    progress.step("removing the pods");
    drop((agent, pods));
    progress.finish();

    println!();
    for check in &checks {
        println!("{check}");
    }
    println!();
    table::print(&records, &files);
    println!(
        "\ndone in {:.1} s; open a file with: tshark -r FILE, or wireshark FILE",
        start.elapsed().as_secs_f64()
    );
    let wrong = checks.iter().filter(|check| !check.holds()).count();
    if wrong > 0 {
        bail!("{wrong} of {} checks failed", checks.len());
    }
    Ok(())
}

/// Copies a run's files to where they are kept.
fn keep_files(record: &Record, keep: &Path) -> Result<Vec<PathBuf>> {
    let mut kept = Vec::new();
    for file in record.files() {
        let name = file.file_name().context("a file without name")?;
        let target = keep.join(name);
        std::fs::copy(&file, &target)
            .with_context(|| format!("cannot copy {} to {}", file.display(), target.display()))?;
        kept.push(target);
    }
    Ok(kept)
}

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
