//! Row 5: how fast one TCP connection of a pod is while it is captured.

use std::time::Duration;

use anyhow::{Context as _, Result};
use podtap_tests::pods::Pod;
use podtap_tests::process::{Process, output};
use serde_json::Value;

use crate::bench::Bench;
use crate::cpu;
use crate::flood::passed;
use crate::machine;
use crate::report::{Judged, Measure, Row, Target};
use crate::tool::{Job, Tool};

/// What a tool is asked for.
type Way = (Tool, Option<u32>);

const SNAP: Option<u32> = Some(128);
const WAYS: [Way; 7] = [
    (Tool::Podtap, None),
    (Tool::Tcpdump, None),
    (Tool::Dumpcap, None),
    (Tool::Podtap, SNAP),
    (Tool::Tcpdump, SNAP),
    (Tool::Dumpcap, SNAP),
    (Tool::None, None),
];

/// Runs the row.
pub(crate) fn run(bench: &mut Bench) -> Result<Row> {
    let against = Judged::RatioTo(Tool::Tcpdump);
    let mut full = Measure::new("throughput, full packets", "Gbit/s", against, Target::AtLeast(1.0));
    let mut snapped = Measure::new("throughput, snap 128", "Gbit/s", against, Target::AtLeast(1.0));
    let mut lost = Measure::new("lost, full packets", "%", Judged::Median, Target::Told);
    let mut lost_snapped = Measure::new("lost, snap 128", "%", Judged::Median, Target::Told);
    let server = bench.pods.pod("server").clone();
    let mut listen = server.command("iperf3");
    let listen = listen.args(["-s", "-A", &cpu::CAPTURE.to_string()]).stdout(std::process::Stdio::null());
    let _server = Process::start(listen)?;
    std::thread::sleep(Duration::from_millis(300));
    for round in 0..bench.rounds() {
        let mut ways = WAYS;
        ways.rotate_left(round % WAYS.len());
        for (tool, snap) in ways.into_iter().filter(|(tool, _)| bench.takes(*tool)).collect::<Vec<_>>() {
            let (speed, loss) = slice(bench, tool, snap, &server)?;
            bench.progress(&format!("{} {snap:?}: {speed:.2} Gbit/s, lost {loss:.2} %", tool.name()));
            for (wanted, speeds, losses) in
                [(None, &mut full, &mut lost), (SNAP, &mut snapped, &mut lost_snapped)]
            {
                if tool == Tool::None {
                    speeds.push(tool, speed);
                } else if snap == wanted {
                    speeds.push(tool, speed);
                    losses.push(tool, loss);
                }
            }
        }
    }
    let to_none = |measure: &Measure, target| Measure {
        judged: Judged::RatioTo(Tool::None),
        target,
        ..measure.clone()
    };
    let measures = vec![
        to_none(&full, Target::Told),
        to_none(&snapped, Target::AtLeast(0.9)),
        full,
        snapped,
        lost,
        lost_snapped,
    ];
    let remarks = vec![
        "One connection, sender on core 0, receiver on core 1 with the tools. Packets are as long as the sender's kernel makes them (GSO, up to 64 KiB). Lost: of the packets that passed the host interface in either direction."
            .to_owned(),
    ];
    bench.row("tcp", "iperf3 TCP through the pod", measures, remarks)
}

/// Gbit/s, and the part of the packets in percent that is not in the file.
fn slice(bench: &mut Bench, tool: Tool, snap: Option<u32>, server: &Pod) -> Result<(f64, f64)> {
    machine::settle_disk()?;
    let pod = bench.pods.pod("client").clone();
    let running = bench.tools.capture(tool, &Job { snap, ..Job::new(&pod) })?;
    let before = both_ways(&pod)?;
    let mut client = pod.command("iperf3");
    client.args(["-c", &server.v4.to_string(), "-J", "-A", &cpu::SENDER.to_string()]);
    client.args(["-t", &bench.seconds(2.0).ceil().to_string()]);
    let said: Value = serde_json::from_str(&output(&mut client)?)?;
    if let Some(process) = running.process() {
        cpu::until_quiet(process)?;
    }
    let passed = both_ways(&pod)? - before;
    let outcome = bench.tools.end(running, 0)?;
    let bits = said.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64).context("iperf3")?;
    Ok((bits / 1e9, 100.0 * (1.0 - outcome.packets as f64 / passed as f64)))
}

/// Packets that passed a pod's host interface.
fn both_ways(pod: &Pod) -> Result<u64> {
    let path = format!("/sys/class/net/{}/statistics/tx_packets", pod.host_interface);
    let sent: u64 = std::fs::read_to_string(path)?.trim().parse()?;
    Ok(passed(pod)? + sent)
}
