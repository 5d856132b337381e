//! Row 11: an agent that captures nothing.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use podtap_tests::memory;
use podtap_tests::metrics::{free_address, wait_for_status};

use crate::bench::Bench;
use crate::cpu;
use crate::report::{Judged, Measure, Row, Target};
use crate::tool::{self, Tool};

/// How often, at most: each takes long.
const ROUNDS: usize = 3;
const SECONDS: f64 = 30.0;

/// Runs the row.
pub(crate) fn run(bench: &mut Bench) -> Result<Row> {
    let mut resident = Measure::new("memory", "MiB", Judged::Worst, Target::AtMost(40.0));
    let mut share = Measure::new("CPU time", "% of a core", Judged::Median, Target::AtMost(0.2));
    let mut threads = String::new();
    for _ in 0..bench.rounds().min(ROUNDS) {
        let address = free_address()?;
        let configuration = format!("httpAddress: {address}\n");
        let mut agent = tool::agent("bench-idle", &configuration, bench.pods.all())?;
        agent.wait_ready()?;
        wait_for_status(address, "/readyz", 200, Duration::from_secs(10))?;
        let process = agent.process().id();
        cpu::until_quiet(process)?;
        let (before, threads_before) = (cpu::time(process)?, cpu::threads(process)?);
        let span = Duration::from_secs_f64(bench.seconds(SECONDS));
        thread::sleep(span);
        let percent = |spent: Duration| 100.0 * spent.as_secs_f64() / span.as_secs_f64();
        let spent = percent(cpu::time(process)? - before);
        let found = memory::resident(process)?.0 as f64 / f64::from(1 << 20);
        bench.progress(&format!("{found:.1} MiB, {spent:.3} %"));
        resident.push(Tool::Podtap, found);
        share.push(Tool::Podtap, spent);
        let each = cpu::threads(process)?.into_iter().zip(threads_before);
        let mut each: Vec<(f64, String)> =
            each.map(|((name, now), (_, before))| (percent(now.saturating_sub(before)), name)).collect();
        each.sort_by(|one, other| other.0.total_cmp(&one.0));
        let most = each.iter().take(4).map(|(percent, name)| format!("{name} {percent:.3}"));
        threads = most.collect::<Vec<_>>().join(", ");
    }
    let remarks = vec![format!(
        "Pods are there and none is wanted; metrics are served and nobody asks. Resident memory includes 16 MiB of write buffers that are kept ready. Threads that take most, in %: {threads}."
    )];
    bench.row("idle", "An agent that captures nothing", vec![resident, share], remarks)
}
