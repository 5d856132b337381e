//! Row 4: what a packet that is not wanted costs in the kernel, by the kernel's own run-time statistics, above an
//! empty program at the same place under the same flood.

use std::ffi::CString;

use anyhow::{Context as _, Result, bail, ensure};
use podtap_tests::pods::Pod;
use serde_json::{Value, json};

use crate::bench::{Bench, PORT};
use crate::bpf::{self, EmptyProgram, Hook, RunStatistics};
use crate::flood;
use crate::report::{Judged, Measure, Row, Target};
use crate::tool::{Job, Tool};

/// Matches no packet of the flood, and has to look at all of its headers for that.
const FILTER: &str = "tcp port 80 and host 192.0.2.1";
/// Packets a second that are let through.
const RATE: u64 = 1000;

/// Runs the row.
pub(crate) fn run(bench: &mut Bench) -> Result<Row> {
    let own = |name: &str, target| Measure::new(name, "ns", Judged::Median, target);
    let mut empty = own("empty program, a packet", Target::Told);
    let mut unmatched = own("filter that matches nothing, above empty", Target::AtMost(20.0));
    let mut limited = own("rate limit 1,000/s, above empty", Target::AtMost(45.0));
    let mut captured = own("64 B captured whole, above empty", Target::Told);
    let mut rate = Measure::new("rate in the file, off by", "%", Judged::Worst, Target::AtMost(2.0));
    for round in 0..bench.rounds() {
        let mut floor = f64::NAN;
        let mut costs = [f64::NAN; 3];
        for step in 0..4 {
            match (step + round) % 4 {
                0 => floor = without_tap(bench)?,
                1 => costs[0] = with_tap(bench, json!({"filter": FILTER}))?.0,
                2 => costs[2] = with_tap(bench, Value::Null)?.0,
                _ => {
                    let (cost, kept) = with_tap(bench, json!({"rateLimit": {"packetsPerSecond": RATE}}))?;
                    costs[1] = cost;
                    rate.push(Tool::Podtap, 100.0 * (kept / RATE as f64 - 1.0).abs());
                }
            }
        }
        bench.progress(&format!(
            "empty {floor:.1} ns, unmatched {:.1}, limited {:.1}, captured {:.1}",
            costs[0], costs[1], costs[2]
        ));
        empty.push(Tool::None, floor);
        empty.push(Tool::Podtap, floor);
        unmatched.push(Tool::Podtap, costs[0] - floor);
        limited.push(Tool::Podtap, costs[1] - floor);
        captured.push(Tool::Podtap, costs[2] - floor);
    }
    let remarks = vec![format!("Filter: {FILTER}. Flood of 64 B from the pod; both directions are tapped.")];
    bench.row(
        "kernel",
        "Cost of a packet in the kernel, by bpf_stats, above an empty program",
        vec![empty, unmatched, limited, rate, captured],
        remarks,
    )
}

fn without_tap(bench: &mut Bench) -> Result<f64> {
    let pod = bench.flooder()?;
    let program = EmptyProgram::load()?;
    let interface = index(&pod.host_interface)?;
    let _links = (program.attach(interface, Hook::Ingress)?, program.attach(interface, Hook::Egress)?);
    measure(bench, &pod, 1.0).map(|(cost, _)| cost)
}

/// Nanoseconds a packet, and packets per second in the file.
fn with_tap(bench: &mut Bench, spec: Value) -> Result<(f64, f64)> {
    let pod = bench.flooder()?;
    let running = bench.tools.capture(Tool::Podtap, &Job { spec, ..Job::new(&pod) })?;
    // Long enough that what comes at once in the beginning is a small part.
    let (cost, seconds) = measure(bench, &pod, 2.0)?;
    let outcome = bench.tools.end(running, PORT)?;
    Ok((cost, outcome.packets as f64 / seconds))
}

fn measure(bench: &Bench, pod: &Pod, seconds: f64) -> Result<(f64, f64)> {
    let _counting = RunStatistics::enable()?;
    let interface = index(&pod.host_interface)?;
    let before = bpf::programs(interface);
    let sent = flood::flood(pod, 64, bench.seconds(seconds))?;
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
