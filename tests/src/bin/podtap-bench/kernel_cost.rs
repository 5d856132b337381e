//! Row 4: what a packet that is not wanted costs in the kernel, by the kernel's own run-time statistics, above an
//! empty program at the same place under the same flood.

use std::ffi::CString;

use anyhow::{Context as _, Result, bail, ensure};
use podtap_tests::pods::Pod;
use serde_json::{Value, json};

use crate::bench::{Bench, PORT};
use crate::bpf::{self, Before, EmptyProgram, Hook, RunStatistics};
use crate::flood;
use crate::report::{Judged, Measure, Row, Target};
use crate::tool::{Job, Tool};

/// Matches no packet of the flood, and has to look at all of its headers for that.
const FILTER: &str = "tcp port 80 and host 192.0.2.1";
/// Packets a second that are let through.
const RATE: u64 = 1000;

/// What is captured whole or in part, to see what that costs.
const CAPTURED: [(&str, usize, Option<u32>); 3] = [
    ("64 B captured", 64, None),
    ("1400 B captured", 1400, None),
    ("1400 B captured, snap 128", 1400, Some(128)),
];

/// Runs the row.
pub(crate) fn run(bench: &mut Bench) -> Result<Row> {
    let own = |name: String, target| Measure::new(name, "ns", Judged::Median, target);
    let above = |name: &str, target| own(format!("{name}, above empty"), target);
    let mut empty = own("empty program, a packet".to_owned(), Target::Told);
    let mut unmatched = above("filter that matches nothing", Target::AtMost(20.0));
    let mut limited = above("rate limit 1,000/s", Target::AtMost(45.0));
    let mut rate = Measure::new("rate in the file, off by", "%", Judged::Worst, Target::AtMost(2.0));
    let mut captured = CAPTURED.map(|(name, ..)| above(name, Target::Told));
    for round in 0..bench.rounds() {
        let mut floor = f64::NAN;
        let mut costs = [f64::NAN; 5];
        for step in 0..6 {
            match (step + round) % 6 {
                0 => floor = without_tap(bench)?,
                1 => costs[0] = with_tap(bench, 64, json!({"filter": FILTER}))?.0,
                2 => {
                    // Long enough that what comes at once in the beginning is a small part.
                    let (cost, kept) = with_tap(bench, 64, json!({"rateLimit": {"packetsPerSecond": RATE}}))?;
                    costs[1] = cost;
                    rate.push(Tool::Podtap, 100.0 * (kept / RATE as f64 - 1.0).abs());
                }
                way => {
                    let (_, frame, snap) = CAPTURED[way - 3];
                    let spec = snap.map_or(Value::Null, |snap| json!({"snapLength": snap}));
                    costs[way - 1] = with_tap(bench, frame, spec)?.0;
                }
            }
        }
        bench.progress(&format!("empty {floor:.1} ns; {costs:.1?}"));
        empty.push(Tool::None, floor);
        empty.push(Tool::Podtap, floor);
        for (measure, cost) in [&mut unmatched, &mut limited].into_iter().chain(&mut captured).zip(costs) {
            measure.push(Tool::Podtap, cost - floor);
        }
    }
    let mut measures = vec![empty, unmatched, limited, rate];
    measures.extend(captured);
    measures.extend(parts(bench.rounds())?);
    let remarks = vec![format!(
        "Filter: {FILTER}. Flood from the pod, 64 B unless said otherwise; both directions are tapped. The parts are timed by BPF_PROG_TEST_RUN."
    )];
    bench.row(
        "kernel",
        "Cost of a packet in the kernel, by bpf_stats, above an empty program",
        measures,
        remarks,
    )
}

/// What the kernel takes for the parts that such programs are made of.
fn parts(rounds: usize) -> Result<Vec<Measure>> {
    let ways = [
        (Before::Call, "part: a function call"),
        (Before::Load, "part: one LD_ABS"),
        (Before::BootClock, "part: the boot clock"),
    ];
    let mut measures = ways.map(|(_, name)| Measure::new(name, "ns", Judged::Median, Target::Told)).to_vec();
    for _ in 0..rounds {
        let nothing = EmptyProgram::load(Before::Nothing)?.run_time()?;
        for ((way, _), measure) in ways.into_iter().zip(&mut measures) {
            measure.push(Tool::Podtap, EmptyProgram::load(way)?.run_time()? - nothing);
        }
    }
    Ok(measures)
}

fn without_tap(bench: &mut Bench) -> Result<f64> {
    let pod = bench.flooder()?;
    let program = EmptyProgram::load(Before::Nothing)?;
    let interface = index(&pod.host_interface)?;
    let _links = (program.attach(interface, Hook::Ingress)?, program.attach(interface, Hook::Egress)?);
    measure(bench, &pod, 64, 1.0).map(|(cost, _)| cost)
}

/// Nanoseconds a packet, and packets per second in the file.
fn with_tap(bench: &mut Bench, frame: usize, spec: Value) -> Result<(f64, f64)> {
    let pod = bench.flooder()?;
    let long = spec.get("rateLimit").is_some();
    let running = bench.tools.capture(Tool::Podtap, &Job { spec, ..Job::new(&pod) })?;
    let (cost, seconds) = measure(bench, &pod, frame, if long { 2.5 } else { 1.0 })?;
    let outcome = bench.tools.end(running, PORT)?;
    Ok((cost, outcome.packets as f64 / seconds))
}

fn measure(bench: &Bench, pod: &Pod, frame: usize, seconds: f64) -> Result<(f64, f64)> {
    let _counting = RunStatistics::enable()?;
    let interface = index(&pod.host_interface)?;
    let before = bpf::programs(interface);
    let sent = flood::flood(pod, frame, bench.seconds(seconds))?;
    let busiest = bpf::busiest(&before, &bpf::programs(interface)).context("no program is loaded")?;
    ensure!(
        busiest.runs >= sent.packets && busiest.runs < sent.packets + 1000,
        "{} packets, but the busiest program ran {} times",
        sent.packets,
        busiest.runs
    );
    Ok((busiest.time as f64 / busiest.runs as f64, sent.seconds))
}

/// Index of an interface.
pub(crate) fn index(name: &str) -> Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: a string that ends in 0.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => bail!("no interface {name:?}"),
        index => Ok(index),
    }
}
