//! Row 10: floods held for minutes, with rotation that keeps the newest 4 GiB.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podtap_tests::agent::ATTACHED;
use podtap_tests::manifest;
use podtap_tests::memory;
use podtap_tests::process::output;
use podtap_tests::record::Record;
use podtap_tests::traffic::{Flood, Sent};
use serde_json::json;

use crate::bench::{Bench, PORT};
use crate::count::Counted;
use crate::flood::passed;
use crate::report::{Judged, Measure, Row, Target};
use crate::stats::Values;
use crate::tool::{Job, Tool};
use crate::{cpu, flood, machine};

const MANIFEST: &str = "held.json";
const FILES: u64 = 16;
const FILE_BYTES: u64 = 256 << 20;
/// Bytes of a full packet. Held that long, a flood of these is more than the page cache can put off writing.
const FULL: usize = 1400;
const BESIDE: Judged = Judged::RatioTo(Tool::Tcpdump);

/// Runs the row: once, whatever the number of rounds.
pub(crate) fn run(bench: &mut Bench) -> Result<Row> {
    let mut measures = Vec::new();
    let mut remarks = Vec::new();
    for (frame, seconds) in [(64, 180.0), (FULL, 60.0)] {
        let held = hold(bench, frame, bench.seconds(seconds))?;
        let name = |what: &str| format!("{frame} B: {what}");
        let own = |what: &str, unit, judged, target, value: f64| {
            Measure::own(name(what), unit, judged, target, vec![value])
        };
        let none = Target::AtMost(0.0);
        let (sent, record) = (held.sent.packets, &held.record);
        let lost = sent as f64 - record.packets() as f64;
        let seen = record.from_pod();
        // What is not in a file is counted as dropped: the sum is what passed.
        let off = [seen.seen, seen.matched, record.packets() + record.dropped()]
            .iter()
            .map(|count| count.abs_diff(held.passed))
            .max()
            .unwrap_or(0);
        measures.extend([
            own("lost", "packets", Judged::Worst, none, lost),
            own("counters off by at most", "packets", Judged::Worst, none, off as f64),
            own("gaps in the files kept", "", Judged::Worst, none, held.gaps as f64),
            own("memory, last third above first", "MiB", Judged::Worst, Target::AtMost(8.0), held.growth),
            own("kept", "GiB", Judged::Worst, Target::AtMost(4.1), held.kept as f64 / f64::from(1 << 30)),
            own("sender's rate", "Mpps", Judged::Median, Target::Told, sent as f64 / held.sent.seconds / 1e6),
            own(
                "user+system per packet",
                "us",
                Judged::Median,
                Target::Told,
                held.cpu.as_secs_f64() * 1e6 / sent as f64,
            ),
        ]);
        if frame == FULL && bench.takes(Tool::Tcpdump) {
            let mut captured = Measure::new(name("captured"), "Mpps", BESIDE, Target::AtLeast(1.8));
            captured.push(Tool::Podtap, record.packets() as f64 / held.sent.seconds / 1e6);
            captured.push(Tool::Tcpdump, by_tcpdump(bench, frame, bench.seconds(seconds))?);
            measures.push(captured);
        }
        remarks.push(format!(
            "{frame} B: {sent} packets in {:.0} s; {} written in all; memory {:.0} MiB; drops {}; {} files kept, read whole, with {} packets.",
            held.sent.seconds,
            record.size(),
            held.memory.median(),
            record.dropped(),
            held.files,
            held.counted,
        ));
    }
    bench.row("held", "Held flood, rotation keeping the newest 4 GiB", measures, remarks)
}

struct Held {
    sent: Sent,
    passed: u64,
    record: Record,
    gaps: u32,
    /// Bytes of the files that are kept.
    kept: u64,
    files: usize,
    counted: u64,
    memory: Values,
    growth: f64,
    cpu: Duration,
}

fn hold(bench: &mut Bench, frame: usize, seconds: f64) -> Result<Held> {
    machine::settle_disk()?;
    let pod = bench.flooder()?;
    let name = format!("held-{frame}");
    let spec = json!({
        "podNames": [pod.name], "limits": {"bytes": "100Ti"}, "duration": "1h",
        "rotation": {"fileBytes": FILE_BYTES, "files": FILES},
    });
    let agent = &mut bench.tools.agent;
    agent.apply(MANIFEST, &manifest::packet_capture(&name, spec))?;
    agent.wait_capture(&name, &ATTACHED)?;
    let process = agent.process().id();
    let (cpu_before, passed_before) = (cpu::time(process)?, passed(&pod)?);
    let flood = Flood {
        frame,
        seconds: Some(seconds),
        cpu: Some(cpu::SENDER),
        ..Flood::new(&pod, &pod, PORT, u64::MAX)
    };
    let sending = flood.start()?;
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut samples = Vec::new();
    // To walk through a process's memory takes the kernel longer than a ring lasts: not on the core that captures.
    cpu::bind(Some(cpu::SENDER))?;
    while Instant::now() < end {
        thread::sleep(Duration::from_secs(2));
        samples.push(memory::of(process)?.total() as f64 / f64::from(1 << 20));
    }
    cpu::bind(Some(cpu::CAPTURE))?;
    let sent = sending.wait()?;
    cpu::until_quiet(process)?;
    let (spent, passed) = (cpu::time(process)? - cpu_before, passed(&pod)? - passed_before);
    bench.progress(&format!("{frame} B: {} packets sent", sent.packets));
    let agent = &mut bench.tools.agent;
    agent.remove(MANIFEST)?;
    let record = agent.wait_capture(&name, &["Stopped", "Failed", "Completed"])?;
    ensure!(record.state() == "Stopped", "{}: {}", record.state(), record.message());
    let files = record.files();
    let mut counted = Counted::default();
    for file in &files {
        counted.add(file, PORT)?;
    }
    // Others' opinion of the oldest and the newest; all of them would take minutes.
    for file in files.first().into_iter().chain(files.last()) {
        output(std::process::Command::new("capinfos").args(["-c", "-M"]).arg(file))?;
    }
    let kept = size(&files)?;
    // What is kept must be the end of what was sent.
    let whole = counted.ordered && counted.first.is_some_and(|first| first + counted.packets == sent.packets);
    std::fs::remove_dir_all(record.directory()).context("removing a capture")?;
    let third = samples.len() / 3;
    let middle = |part: &[f64]| part.iter().copied().collect::<Values>().median();
    let growth = middle(&samples[samples.len() - third..]) - middle(&samples[..third]);
    Ok(Held {
        sent,
        passed,
        record,
        gaps: u32::from(!whole),
        kept,
        files: files.len(),
        counted: counted.packets,
        memory: samples.into_iter().collect(),
        growth,
        cpu: spent,
    })
}

/// Millions of packets a second that tcpdump captures of such a flood, with files of the same size and number.
fn by_tcpdump(bench: &mut Bench, frame: usize, seconds: f64) -> Result<f64> {
    machine::settle_disk()?;
    let pod = bench.flooder()?;
    let running = bench.tools.rotating_tcpdump(&Job::new(&pod), FILE_BYTES, FILES)?;
    let process = running.process().context("tcpdump does not run")?;
    let sent = flood::flood(&pod, frame, seconds)?;
    cpu::until_quiet(process)?;
    let captured = bench.tools.end(running, PORT)?.packets;
    bench.progress(&format!("tcpdump: {captured} of {} packets", sent.packets));
    Ok(captured as f64 / sent.seconds / 1e6)
}

fn size(files: &[PathBuf]) -> Result<u64> {
    files.iter().map(|file| Ok(file.metadata()?.len())).sum()
}
