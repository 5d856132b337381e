//! Rows 1 to 3: a flood from one core, written to the disk by each tool in turn.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podtap_tests::pods::Pod;
use podtap_tests::process::output;
use podtap_tests::traffic::{Flood, Sent};

use crate::bench::{Bench, PORT};
use crate::cpu;
use crate::machine;
use crate::report::{Judged, Measure, Row, Target};
use crate::tool::{Job, Tool};

/// One of the three.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FloodRow {
    name: &'static str,
    title: &'static str,
    frame: usize,
    snap: Option<u32>,
    seconds: f64,
    cpu: Target,
    captured: Target,
    rate: Target,
}

pub(crate) const SMALL: FloodRow = FloodRow {
    name: "flood64",
    title: "64 B flood, one sender core, to disk",
    frame: 64,
    snap: None,
    seconds: 1.5,
    cpu: Target::AtMost(0.6),
    captured: Target::Told,
    rate: Target::AtLeast(1.0),
};
pub(crate) const FULL: FloodRow = FloodRow {
    name: "flood1400",
    title: "1400 B flood, full packets, to disk",
    frame: 1400,
    snap: None,
    // Long enough for the page cache to be no place to hide.
    seconds: 4.0,
    cpu: Target::AtMost(0.25),
    captured: Target::AtLeast(1.8),
    rate: Target::Told,
};
pub(crate) const SNAPPED: FloodRow = FloodRow {
    name: "flood1400-snap128",
    title: "1400 B flood, snap length 128, to disk",
    frame: 1400,
    snap: Some(128),
    seconds: 1.5,
    cpu: Target::AtMost(0.6),
    captured: Target::Told,
    rate: Target::Told,
};

/// What one slice showed.
struct Slice {
    sent: Sent,
    /// Seconds until the disk had what the file system had been given.
    settled: f64,
    /// Packets that came by the host interface.
    passed: u64,
    captured: u64,
    ordered: bool,
    /// Lost, as the tool says itself; podtap only.
    said_lost: u64,
    cpu: Duration,
    /// The consumer's, the writers' and the other threads' part of it; podtap only.
    threads: [Duration; 3],
}

/// Runs one of the rows.
pub(crate) fn run(bench: &mut Bench, row: &FloodRow) -> Result<Row> {
    let against = Judged::RatioTo(Tool::Tcpdump);
    let mut loss = Measure::new("lost", "% of packets", Judged::Worst, Target::AtMost(0.0));
    let mut silent = Measure::new("lost and not counted", "packets", Judged::Worst, Target::AtMost(0.0));
    let mut cpu = Measure::new("user+system per captured packet", "us", against, row.cpu);
    let mut captured = Measure::new("captured", "Mpps", against, row.captured);
    // What the page cache has taken is not on the disk yet.
    let mut kept = Measure::new("captured, until it is on the disk", "Mpps", against, Target::Told);
    let mut rate = Measure::new("sender's rate", "Mpps", against, row.rate);
    // Where the agent's time goes.
    let mut parts = ["consumer", "writer", "other threads"]
        .map(|name| Measure::new(format!("podtap's {name}, per packet"), "ns", Judged::Median, Target::Told));
    let mut gaps = 0;
    for round in 0..bench.rounds() {
        for tool in bench.turn(round, &[Tool::Podtap, Tool::Tcpdump, Tool::Dumpcap, Tool::None]) {
            let slice = slice(bench, tool, row)?;
            let mpps = slice.sent.packets as f64 / slice.sent.seconds / 1e6;
            rate.push(tool, mpps);
            if tool == Tool::None {
                continue;
            }
            bench.progress(&format!(
                "{} {mpps:.3} Mpps, {} of {} captured, {:.0} ms",
                tool.name(),
                slice.captured,
                slice.passed,
                slice.cpu.as_secs_f64() * 1e3
            ));
            loss.push(tool, 100.0 * (1.0 - slice.captured as f64 / slice.passed as f64));
            cpu.push(tool, slice.cpu.as_secs_f64() * 1e6 / slice.captured as f64);
            captured.push(tool, slice.captured as f64 / slice.sent.seconds / 1e6);
            kept.push(tool, slice.captured as f64 / (slice.sent.seconds + slice.settled) / 1e6);
            if tool == Tool::Podtap {
                let counted = slice.captured + slice.said_lost;
                silent.push(tool, slice.passed.abs_diff(counted) as f64);
                gaps += u32::from(!slice.ordered);
                for (part, time) in parts.iter_mut().zip(slice.threads) {
                    part.push(tool, time.as_secs_f64() * 1e9 / slice.captured as f64);
                }
            }
        }
    }
    let told = Measure { judged: Judged::RatioTo(Tool::None), target: Target::Told, ..rate.clone() };
    let remarks = vec![format!(
        "podtap's files were read back: {gaps} of {} slices had a gap or a wrong order.",
        bench.rounds()
    )];
    let measures = [loss, silent, cpu, captured, kept, rate, told].into_iter().chain(parts).collect();
    bench.row(row.name, row.title, measures, remarks)
}

fn slice(bench: &mut Bench, tool: Tool, row: &FloodRow) -> Result<Slice> {
    machine::settle_disk()?;
    let pod = bench.flooder()?;
    let job = Job { snap: row.snap, ..Job::new(&pod) };
    let running = bench.tools.capture(tool, &job)?;
    let cpu_before = running.process().map(cpu::time).transpose()?;
    let threads_before = running.process().map(by_part).transpose()?;
    let passed_before = passed(&pod)?;
    let sent = flood(&pod, row.frame, bench.seconds(row.seconds))?;
    let over = Instant::now();
    machine::settle_disk()?;
    let settled = over.elapsed().as_secs_f64();
    let passed = passed(&pod)? - passed_before;
    let mut spent = Duration::ZERO;
    if let (Some(process), Some(before)) = (running.process(), cpu_before) {
        cpu::until_quiet(process)?;
        spent = cpu::time(process)? - before;
    }
    let mut threads = [Duration::ZERO; 3];
    if let (Some(process), Some(before)) = (running.process(), threads_before) {
        let after = by_part(process)?;
        threads = std::array::from_fn(|part| after[part].saturating_sub(before[part]));
    }
    let outcome = bench.tools.end(running, PORT)?;
    ensure!(passed == sent.packets, "{} packets sent, {passed} reached the host interface", sent.packets);
    Ok(Slice {
        sent,
        settled,
        passed,
        captured: outcome.packets,
        ordered: outcome.ordered,
        said_lost: outcome.record.map_or(0, |record| {
            if record.dropped() > 0 {
                bench.progress(&format!("drops: {}", record.json()["status"]["drops"]));
            }
            record.dropped()
        }),
        cpu: spent,
        threads,
    })
}

/// Sends for some seconds as fast as the sender's core can.
pub(crate) fn flood(pod: &Pod, frame: usize, seconds: f64) -> Result<Sent> {
    let flood = Flood {
        frame,
        seconds: Some(seconds),
        cpu: Some(cpu::SENDER),
        ..Flood::new(pod, pod, PORT, u64::MAX)
    };
    flood.run()
}

/// Packets that a pod has sent through its host interface.
pub(crate) fn passed(pod: &Pod) -> Result<u64> {
    let path = format!("/sys/class/net/{}/statistics/rx_packets", pod.host_interface);
    std::fs::read_to_string(&path).with_context(|| path.clone())?.trim().parse().context("rx_packets")
}

/// Takes a pod's host interface off the bridge: packets to others end where they enter the host, which is the fastest
/// that a sender can go.
pub(crate) fn cut_off(pod: &Pod) -> Result<()> {
    let mut command = std::process::Command::new("ip");
    output(command.args(["link", "set", &pod.host_interface, "nomaster"])).map(drop)
}

/// Time of the agent's consumer, of its writers, and of all other threads.
fn by_part(process: u32) -> Result<[Duration; 3]> {
    let mut sums = [Duration::ZERO; 3];
    for (name, time) in cpu::threads(process)? {
        let part = match name.as_str() {
            "consumer" => 0,
            writer if writer.starts_with("writer") => 1,
            _ => 2,
        };
        sums[part] += time;
    }
    Ok(sums)
}
