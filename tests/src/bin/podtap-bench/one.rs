//! Rows 8 and 9: how soon one tap is there.

use std::collections::HashSet;
use std::ffi::CString;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podtap_tests::agent::ATTACHED;
use podtap_tests::manifest;
use serde_json::{Value, json};

use crate::attached;
use crate::bench::{Bench, PORT};
use crate::report::{Judged, Measure, Row, Target};
use crate::tool::{Job, Tool};

/// How often each is tried in a round.
const TRIES: usize = 3;
/// What the agent logs, at level debug, of each tap that it has loaded; with the time in the field `took_us`.
const LOADED: &str = "tap loaded";

/// Row 8.
pub(crate) fn tap(bench: &mut Bench) -> Result<Row> {
    let of = |name: &str, target| Measure::new(name, "ms", Judged::Median, target);
    let mut plain = of("without a filter", Target::AtMost(5.0));
    let mut known = of("with a filter text seen before", Target::AtMost(5.0));
    let mut new = of("with a filter text never seen", Target::AtMost(15.0));
    for round in 0..bench.rounds() * TRIES {
        let fresh = format!("tcp port {} and net 192.0.2.0/24", 10_000 + round);
        for (measure, filter) in [(&mut plain, ""), (&mut new, fresh.as_str()), (&mut known, fresh.as_str())]
        {
            let spec = if filter.is_empty() { Value::Null } else { json!({"filter": filter}) };
            let pod = bench.flooder()?;
            let log = bench.tools.agent.log_file();
            let before = loaded(&log)?.len();
            let running = bench.tools.capture(Tool::Podtap, &Job { spec, ..Job::new(&pod) })?;
            bench.tools.end(running, PORT)?;
            let times = loaded(&log)?;
            ensure!(times.len() == before + 1, "the agent logged {} loads", times.len() - before);
            measure.push(Tool::Podtap, times[before]);
        }
    }
    let remarks =
        vec!["From the decision to load to a loaded tap with its ring, as the agent logs it; with a new text the compiler's child is included.".to_owned()];
    bench.row("tap", "One new tap", vec![plain, known, new], remarks)
}

/// Milliseconds of all loads in the agent's log.
fn loaded(log: &Path) -> Result<Vec<f64>> {
    let text = std::fs::read_to_string(log).context("the agent's log")?;
    let lines = text.lines().filter(|line| line.contains(LOADED));
    let times = lines.map(|line| {
        let event: Value = serde_json::from_str(line)?;
        let took = event["took_us"].as_f64();
        took.map(|took| took / 1e3).context("no time in the agent's log")
    });
    times.collect()
}

/// Row 9.
pub(crate) fn pod(bench: &mut Bench) -> Result<Row> {
    let mut until = Measure::new("from interface to tap", "ms", Judged::Median, Target::AtMost(50.0));
    let pod = bench.pods.pod("late").clone();
    for round in 0..bench.rounds() * TRIES {
        bench.pods.disconnect(&pod)?;
        let file = "late.json";
        let mut wanted = manifest::labelled(&pod, &[]);
        // Another pod each time: the run of the one before is over.
        wanted["metadata"]["uid"] = json!(format!("late-{round}"));
        bench.tools.agent.apply(file, &wanted)?;
        wait_for_state(bench, &["Pending"])?;
        // Not at the same moment of the agent's second each time.
        thread::sleep(Duration::from_millis(100 + 137 * (round as u64 % 8)));
        let watched = CString::new(pod.host_interface.as_str())?;
        let watch = thread::spawn(move || watch(&watched));
        bench.pods.connect(&pod)?;
        let took = watch.join().ok().context("the watch panicked")??;
        bench.progress(&format!("attached after {:.1} ms", took.as_secs_f64() * 1e3));
        until.push(Tool::Podtap, took.as_secs_f64() * 1e3);
        wait_for_state(bench, &ATTACHED)?;
        bench.tools.agent.remove(file)?;
        wait_for_state(bench, &[])?;
    }
    let remarks = vec!["The manifest is there first. From the interface's name being known to the kernel to the tap being attached in both directions; looked at every 0.2 ms.".to_owned()];
    bench.row("pod", "One new pod", vec![until], remarks)
}

/// Waits until the pod's only unfinished run is in one of these states; with none, until there is no such run.
fn wait_for_state(bench: &mut Bench, states: &[&str]) -> Result<()> {
    bench.tools.agent.wait(&format!("late to be {states:?}"), Duration::from_secs(10), |records| {
        let mut unfinished = records.iter().filter(|record| record.pod() == "late" && !record.is_over());
        match unfinished.next() {
            None => states.is_empty().then_some(()),
            Some(record) => states.contains(&record.state()).then_some(()),
        }
    })
}

/// Time from the interface's appearance to both directions, or the socket, being attached.
fn watch(name: &CString) -> Result<Duration> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut appeared = None;
    loop {
        ensure!(Instant::now() < deadline, "no tap after 10 s");
        thread::sleep(Duration::from_micros(200));
        let (start, interface) = match appeared {
            Some(known) => known,
            None => {
                // SAFETY: a string that ends in 0.
                let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
                if index == 0 {
                    continue;
                }
                *appeared.insert((Instant::now(), index))
            }
        };
        let (links, sockets) = attached::kinds(&HashSet::from([interface]))?;
        if links >= 2 || sockets >= 1 {
            return Ok(start.elapsed());
        }
    }
}
