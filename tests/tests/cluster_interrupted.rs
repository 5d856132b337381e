//! `cluster up` ended at some moment on its way: `cluster down` takes away whatever is there, and another `up` works.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use podtap_tests::cluster::{Cluster, SOON, wait, xtask};
use podtap_tests::process::{Process, output, output_within, target};

/// Files that `up` makes, in this order, how long after one it is ended, and how.
const MOMENTS: [(&str, u64, i32); 7] = [
    ("settings", 0, libc::SIGKILL),
    ("pki", 0, libc::SIGINT),
    ("kubeconfig", 0, libc::SIGKILL),
    ("control.process", 0, libc::SIGINT),
    ("node2.process", 0, libc::SIGKILL),
    ("node2.process", 2000, libc::SIGINT),
    ("node2.process", 6000, libc::SIGKILL),
];

fn cluster(words: &[&str]) -> Result<()> {
    output_within(xtask().arg("cluster").args(words), "", SOON).map(drop)
}

/// Brings the cluster and its images back for the tests that follow.
struct Back;

impl Back {
    fn bring() -> Result<()> {
        cluster(&["up"])?;
        ["podtap.tar", "traffic.tar"].iter().try_for_each(|archive| {
            let archive = target().join("image").join(archive);
            cluster(&["load", archive.to_str().context("not a path of text")?])
        })
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = Self::bring() {
            eprintln!("the cluster is not back: {error:#}");
        }
    }
}

/// What there is on this machine that may be of a cluster.
fn traces() -> Result<BTreeSet<String>> {
    let mut traces = BTreeSet::new();
    for words in
        [["-o", "link", "show"].as_slice(), &["route", "show"], &["rule", "show"], &["netns", "list"]]
    {
        let text = output(Command::new("ip").args(words))?;
        // Bridges, the wire between the nodes, pods' interfaces; addresses; node2.
        let ours = [": podtap", ": veth", "10.213.", "podtap-node"];
        let lines = text.lines().filter(|line| ours.iter().any(|name| line.contains(name)));
        traces.extend(lines.map(|line| format!("{}: {line}", words.join(" "))));
    }
    for setting in
        ["net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic", "fs/inotify/max_user_instances"]
    {
        let value = std::fs::read_to_string(format!("/proc/sys/{setting}"))?;
        traces.insert(format!("{setting}: {}", value.trim()));
    }
    let home = target().join("cluster").display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    traces.extend(mounts.lines().filter(|line| line.contains(&home)).map(|line| format!("mount {line}")));
    for process in std::fs::read_dir("/proc")?.flatten() {
        // One that has ended meanwhile has none.
        let Ok(words) = std::fs::read(process.path().join("cmdline")) else { continue };
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if words.contains(&home) {
            traces.insert(format!("process {}: {words}", process.file_name().display()));
        }
    }
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path());
    for directory in hierarchies.chain(["/sys/fs/cgroup".into()]) {
        for group in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if group.file_name().to_string_lossy().starts_with("podtap-") {
                traces.insert(format!("control group {}", group.path().display()));
            }
        }
    }
    Ok(traces)
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_cluster_whose_making_is_interrupted_goes_without_a_trace() {
    if !Cluster::get().unwrap().is_disposable() {
        return;
    }
    let _back = Back;
    cluster(&["down"]).unwrap();
    let before = traces().unwrap();
    assert!(!before.iter().any(|trace| trace.contains("podtap")), "{before:#?}");
    let mut left = 0;
    for (file, later, signal) in MOMENTS {
        let moment = format!("{later} ms after {file}, signal {signal}");
        let mut command = xtask();
        command.args(["cluster", "up"]).stdout(Stdio::null()).stderr(Stdio::null());
        let mut up = Process::start(&mut command).unwrap();
        let path = target().join("cluster").join(file);
        let there = wait(&moment, SOON, || Ok((path.exists() || !up.running()).then_some(())));
        there.unwrap();
        std::thread::sleep(Duration::from_millis(later));
        assert!(up.running(), "{moment}: too late, it is up already");
        up.signal(signal).unwrap();
        up.wait(SOON).unwrap();
        left += usize::from(traces().unwrap() != before);
        cluster(&["down"]).with_context(|| moment.clone()).unwrap();
        assert_eq!(traces().unwrap(), before, "{moment}");
    }
    assert!(left > MOMENTS.len() / 2, "only {left} times was there anything to be taken away");
}
