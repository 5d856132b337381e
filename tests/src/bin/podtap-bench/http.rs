//! Row 6: how long small HTTP requests over a kept connection take while the pod is captured.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use podtap_tests::process::{Process, output, program};
use serde_json::Value;

use crate::bench::Bench;
use crate::cpu;
use crate::machine;
use crate::report::{Judged, Measure, Row, Target};
use crate::tool::{Job, Tool};

const SERVER_PORT: &str = "80";
/// Turns of each tool in a round. What tools take of a request is less than what the machine drifts by in seconds, so slices
/// are short and many.
const TURNS: usize = 4;

/// Runs the row.
pub(crate) fn run(bench: &mut Bench) -> Result<Row> {
    let against = Judged::RatioTo(Tool::Tcpdump);
    let mut latencies = ["p50", "p99"].map(|name| Measure::new(name, "us", against, Target::AtMost(1.0)));
    let server = bench.pods.pod("server").clone();
    let mut serve = server.command(program("podtap-bench-http")?);
    let serve = serve.args(["serve", "--port", SERVER_PORT]).args(["--cpu", &cpu::CAPTURE.to_string()]);
    let _server = Process::start(serve.stdout(Stdio::null()))?;
    std::thread::sleep(Duration::from_millis(300));
    let mut requests = 0;
    for round in 0..bench.rounds() * TURNS {
        for tool in bench.turn(round, &[Tool::Podtap, Tool::Tcpdump, Tool::Dumpcap, Tool::None]) {
            machine::settle_disk()?;
            let pod = bench.pods.pod("client").clone();
            let running = bench.tools.capture(tool, &Job::new(&pod))?;
            let mut load = pod.command(program("podtap-bench-http")?);
            load.args(["load", "--server", &server.v4.to_string(), "--port", SERVER_PORT]);
            load.args(["--cpu", &cpu::SENDER.to_string(), "--seconds", &bench.seconds(1.0).to_string()]);
            let said: Value = serde_json::from_str(&output(&mut load)?)?;
            bench.tools.end(running, 0)?;
            bench.progress(&format!("{} {said}", tool.name()));
            for (measure, field) in latencies.iter_mut().zip(["p50", "p99"]) {
                measure.push(tool, said[field].as_f64().context("no latency")?);
            }
            requests = said["requests"].as_u64().context("no requests")?;
        }
    }
    let told = latencies.clone().map(|measure| Measure {
        judged: Judged::RatioTo(Tool::None),
        target: Target::Told,
        ..measure
    });
    let remarks = vec![format!(
        "One kept connection, GET with a 100 B answer, client on core 0, server and tools on core 1; {requests} requests in the last slice."
    )];
    bench.row("http", "HTTP keep-alive, small requests", latencies.into_iter().chain(told).collect(), remarks)
}
