//! Row 10: floods held for minutes, with rotation that keeps the newest 4 GiB.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podtap_tests::agent::ATTACHED;
use podtap_tests::manifest;
use podtap_tests::memory;
use podtap_tests::metrics::{Metrics, free_address};
use podtap_tests::process::output;
use podtap_tests::record::Record;
use podtap_tests::traffic::{Flood, Sent};
use serde_json::json;

use crate::bench::{Bench, CONFIGURATION, PORT};
use crate::count::Counted;
use crate::flood::passed;
use crate::report::{Judged, Measure, Row, Target};
use crate::stats::Values;
use crate::tool::{Job, Tool};
use crate::{cpu, flood, machine, tool};

const MANIFEST: &str = "held.json";
const FILES: u64 = 16;
const FILE_BYTES: u64 = 256 << 20;
/// Bytes of a full packet. Held that long, a flood of these is more than the page cache can put off writing.
const FULL: usize = 1400;
const BESIDE: Judged = Judged::RatioTo(Tool::Tcpdump);

/// One flood.
struct Hold {
    name: &'static str,
    frame: usize,
    seconds: f64,
    /// The agent's `memoryBudget`, in MiB.
    budget: u32,
    /// Packets a second; as many as the sender's core can send when none.
    rate: Option<u64>,
}

const HOLDS: [Hold; 4] = [
    Hold { name: "64 B", frame: 64, seconds: 180.0, budget: 256, rate: None },
    Hold { name: "1400 B", frame: FULL, seconds: 60.0, budget: 256, rate: None },
    // The page cache that others write into may hold as much that is not on the disk yet.
    Hold { name: "1400 B, budget 2Gi", frame: FULL, seconds: 60.0, budget: 2048, rate: None },
    // What the disk took at any time on every machine so far: 730 MB/s, nearly 6 Gbit/s of packets.
    Hold { name: "1400 B, 500,000/s", frame: FULL, seconds: 60.0, budget: 256, rate: Some(500_000) },
];

/// Runs the row: once, whatever the number of rounds.
pub(crate) fn run(bench: &mut Bench) -> Result<Row> {
    let mut measures = Vec::new();
    let mut remarks = Vec::new();
    let mut by_others = None;
    for what in &HOLDS {
        let held = hold(bench, what)?;
        let name = |of: &str| format!("{}: {of}", what.name);
        let own = |of: &str, unit, judged, target, value: f64| {
            Measure::own(name(of), unit, judged, target, vec![value])
        };
        let none = Target::AtMost(0.0);
        // While the disk is slower than the flood, buffers fill up: as far as the budget goes.
        let keeps_up = what.frame != FULL || what.rate.is_some();
        let flat = if keeps_up { Target::AtMost(8.0) } else { Target::Told };
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
            own(
                "missing in the files kept and not counted",
                "packets",
                Judged::Worst,
                none,
                held.uncounted as f64,
            ),
            own(
                "memory, most",
                "MiB",
                Judged::Worst,
                Target::AtMost(f64::from(what.budget) + 64.0),
                held.memory.max(),
            ),
            own("memory, last third above first", "MiB", Judged::Worst, flat, held.growth),
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
        if !keeps_up && bench.takes(Tool::Tcpdump) {
            let mut captured = Measure::new(name("captured"), "Mpps", BESIDE, Target::AtLeast(1.8));
            captured.push(Tool::Podtap, record.packets() as f64 / held.sent.seconds / 1e6);
            let by_tcpdump = match by_others {
                Some(known) => known,
                None => *by_others.insert(by_tcpdump(bench, FULL, bench.seconds(what.seconds))?),
            };
            captured.push(Tool::Tcpdump, by_tcpdump);
            measures.push(captured);
        }
        remarks.push(format!(
            "{}: {sent} packets in {:.0} s; {}; {} written in all; memory {:.0} MiB; drops {}; {} files kept, read whole, with {} packets.",
            what.name,
            held.sent.seconds,
            held.delays,
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
    uncounted: u64,
    /// Bytes of the files that are kept.
    kept: u64,
    files: usize,
    counted: u64,
    memory: Values,
    growth: f64,
    cpu: Duration,
    /// What the disk had the agent wait for, in words.
    delays: String,
}

fn hold(bench: &mut Bench, what: &Hold) -> Result<Held> {
    let (frame, seconds) = (what.frame, bench.seconds(what.seconds));
    machine::settle_disk()?;
    let pod = bench.flooder()?;
    let name = format!("held-{frame}");
    let address = free_address()?;
    let configuration = format!("httpAddress: {address}\nmemoryBudget: {}Mi\n{CONFIGURATION}", what.budget);
    let mut agent = tool::agent("held", &configuration, std::slice::from_ref(&pod))?;
    let spec = json!({
        "podNames": [pod.name], "limits": {"bytes": "100Ti"}, "duration": "1h",
        "rotation": {"fileBytes": FILE_BYTES, "files": FILES},
    });
    agent.apply(MANIFEST, &manifest::packet_capture(&name, spec))?;
    agent.wait_capture(&name, &ATTACHED)?;
    let process = agent.process().id();
    let (cpu_before, passed_before) = (cpu::time(process)?, passed(&pod)?);
    let flood = Flood {
        frame,
        seconds: Some(seconds),
        rate: what.rate,
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
    bench.progress(&format!("{}: {} packets sent", what.name, sent.packets));
    let delays = delays(&Metrics::scrape(address)?)?;
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
    // What is kept must be the end of what was sent, but for what is counted as dropped.
    ensure!(counted.rising, "packets are in a wrong order");
    let first = counted.first.context("the files kept hold no packet")?;
    let uncounted = (sent.packets - first - counted.packets).saturating_sub(record.dropped());
    let third = samples.len() / 3;
    let middle = |part: &[f64]| part.iter().copied().collect::<Values>().median();
    let growth = middle(&samples[samples.len() - third..]) - middle(&samples[..third]);
    Ok(Held {
        sent,
        passed,
        record,
        uncounted,
        kept,
        files: files.len(),
        counted: counted.packets,
        memory: samples.into_iter().collect(),
        growth,
        cpu: spent,
        delays,
    })
}

fn delays(metrics: &Metrics) -> Result<String> {
    let [writing, waiting, waits] =
        ["write_seconds_sum", "buffer_wait_seconds_sum", "buffer_wait_seconds_count"]
            .map(|name| metrics.value(&format!("podtap_{name}"), &[]));
    let slow = |seconds: &str| -> Result<f64> {
        let within = metrics.value("podtap_write_seconds_bucket", &[("le", seconds)])?;
        Ok(metrics.value("podtap_write_seconds_count", &[])? - within)
    };
    Ok(format!(
        "writers at work for {:.1} s, {} writes took more than 10 ms and {} more than 100; rings waited for buffers {} times, for {:.2} s",
        writing?,
        slow("0.01")?,
        slow("0.1")?,
        waits?,
        waiting?,
    ))
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
