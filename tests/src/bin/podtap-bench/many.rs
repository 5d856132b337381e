//! Row 7: 250 pods labelled at once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::manifest;
use podtap_tests::memory;
use podtap_tests::pods::{Pod, Pods};

use crate::attached::Newly;
use crate::bench::Bench;
use crate::bpf::{Before, EmptyProgram, Hook};
use crate::kernel_cost::index;
use crate::netlink::Links;
use crate::report::{Judged, Measure, Row, Target};
use crate::stats::Values;
use crate::tool::Tool;
use crate::{cpu, flood};

const PODS: usize = 250;
/// Pods whose attachment by a bare loop is timed; the floor of all follows from it.
const FLOOR_PODS: usize = 50;
const BUDGET_MIB: f64 = 512.0;
const AGAINST: Judged = Judged::RatioTo(Tool::None);

const CONFIGURATION: &str = "
memoryBudget: 512Mi
caps: {capturesPerNamespace: 1000}
";

/// Runs the row.
pub(crate) fn run(bench: &mut Bench) -> Result<Row> {
    bench.progress(&format!("making {PODS} pods"));
    let mut pods = Pods::new()?;
    let names: Vec<String> = (0..PODS).map(|number| format!("p{number}")).collect();
    pods.add(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    wait_until_silent(&pods)?;
    let mut measures = Vec::new();
    let mut remarks = Vec::new();
    let by_default = one_mode(bench, &pods, "auto", &mut measures, &mut remarks)?;
    // The other way, for comparison: it is only taken where an administrator asks for it.
    let other = if by_default == "Socket" { "tcx" } else { "socket" };
    one_mode(bench, &pods, other, &mut measures, &mut remarks)?;
    remarks.push(format!(
        "tcx floor: {FLOOR_PODS} pods' two links each made in a bare loop, times {}. Sockets: 1 s in all. Memory: the agent's own (PSS) and its BPF objects.",
        PODS / FLOOR_PODS
    ));
    bench.row("many", "250 pods labelled at once", measures, remarks)
}

/// Measures one attach mode, and says how most interfaces were tapped.
fn one_mode(
    bench: &Bench,
    pods: &Pods,
    mode: &str,
    measures: &mut Vec<Measure>,
    remarks: &mut Vec<String>,
) -> Result<String> {
    let mut attach = Measure::new(format!("{mode}: all attached"), "s", AGAINST, Target::Told);
    let mut memory = Measure::new(
        format!("{mode}: agent's memory, budget {BUDGET_MIB}"),
        "MiB",
        Judged::Worst,
        Target::AtMost(BUDGET_MIB + 64.0),
    );
    let mut idle = Measure::new(format!("{mode}: idle"), "% of a core", Judged::Median, Target::AtMost(1.0));
    // Who forces a mode has chosen its ways too.
    let links = if mode == "auto" { Target::AtMost(2.0) } else { Target::Told };
    let mut link = Measure::new(format!("{mode}: another link made meanwhile"), "ms", AGAINST, links);
    let mut taps = String::new();
    let mut slowest = 0.0_f64;
    for round in 0..bench.rounds() {
        let found = one_round(pods, mode)?;
        let floor = match found.taps.as_str() {
            "Tcx" => floor(&pods.all()[..FLOOR_PODS])?,
            _ => 1.0,
        };
        bench.progress(&format!(
            "{mode} {round} ({}): {:.2} s, floor {floor:.2} s, {:.0} MiB, idle {:.2} %, link {:.2} ms, usually {:.2}",
            found.taps,
            found.attached,
            found.memory,
            found.idle,
            found.link.1.median(),
            found.link.0.median()
        ));
        for (measure, own, none) in
            [(&mut attach, found.attached, floor), (&mut link, found.link.1.median(), found.link.0.median())]
        {
            measure.push(Tool::Podtap, own);
            measure.push(Tool::None, none);
        }
        memory.push(Tool::Podtap, found.memory);
        idle.push(Tool::Podtap, found.idle);
        slowest = slowest.max(found.link.1.max());
        taps = found.taps;
    }
    attach.target = Target::AtMost(if taps == "Tcx" { 1.2 } else { 1.0 });
    measures.extend([attach, memory, idle, link]);
    remarks.push(format!(
        "{mode}: most are tapped by {taps}; the slowest link made meanwhile took {slowest:.1} ms."
    ));
    Ok(taps)
}

/// Seconds that the kernel takes to attach an empty program to all pods, in both directions.
fn floor(pods: &[Pod]) -> Result<f64> {
    let program = EmptyProgram::load(Before::Nothing)?;
    let interfaces = pods.iter().map(|pod| index(&pod.host_interface)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    let mut links = Vec::new();
    for interface in interfaces {
        for hook in [Hook::Ingress, Hook::Egress] {
            links.push(program.attach(interface, hook)?);
        }
    }
    Ok(start.elapsed().as_secs_f64() * PODS as f64 / pods.len() as f64)
}

struct Found {
    /// Seconds from the first label to the last tap in place.
    attached: f64,
    /// How most of them are: `Tcx` or `Socket`.
    taps: String,
    /// MiB.
    memory: f64,
    /// Percent of a core.
    idle: f64,
    /// Milliseconds to make a link: usually, and while pods are being attached.
    link: (Values, Values),
}

fn one_round(pods: &Pods, mode: &str) -> Result<Found> {
    let mut agent = Agent::start_with("bench-many", CONFIGURATION, &["--attach-mode", mode])?;
    for pod in pods.all() {
        agent.apply(&format!("{}.json", pod.name), &manifest::pod(pod))?;
    }
    wait_until_idle(&mut agent)?;
    let interface = &pods.all().first().context("no pods")?.host_interface;
    let tag = interface.split('v').next().unwrap_or(interface);
    let usual = links_made(tag, &AtomicBool::new(true), 10, Duration::from_millis(20))?;
    let interfaces: HashSet<u32> =
        pods.all().iter().map(|pod| index(&pod.host_interface)).collect::<Result<_>>()?;
    let manifests: Vec<_> =
        pods.all().iter().map(|pod| (format!("{}.json", pod.name), manifest::labelled(pod, &[]))).collect();

    // Making a link disturbs grace periods, too: where it is only told how long one takes, few are made.
    let (most, pause) = if mode == "tcx" { (4, 1000) } else { (20, 50) };
    let going = AtomicBool::new(true);
    let (attached, meanwhile) = thread::scope(|scope| {
        let links = scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            links_made(tag, &going, most, Duration::from_millis(pause))
        });
        let attached = label_all(&mut agent, mode, &manifests, &interfaces);
        going.store(false, Ordering::Relaxed);
        (attached, links.join().unwrap_or_else(|_| bail!("the link maker panicked")))
    });
    let ((attached, taps), meanwhile) = (attached?, meanwhile?);

    wait_until_idle(&mut agent)?;
    let process = agent.process().id();
    let before = cpu::time(process)?;
    let span = Duration::from_secs(3);
    thread::sleep(span);
    let idle = 100.0 * (cpu::time(process)? - before).as_secs_f64() / span.as_secs_f64();
    let memory = memory::of(process)?.total() as f64 / f64::from(1 << 20);
    agent.process().signal(libc::SIGTERM)?;
    agent.process().wait(Duration::from_secs(60))?;
    Ok(Found { attached, taps, memory, idle, link: (usual, meanwhile) })
}

/// Seconds until all are captured, and how.
fn label_all(
    agent: &mut Agent,
    mode: &str,
    manifests: &[(String, serde_json::Value)],
    interfaces: &HashSet<u32>,
) -> Result<(f64, String)> {
    let newly = Newly::from_now();
    let start = Instant::now();
    for (file, pod) in manifests {
        agent.apply(file, pod)?;
    }
    let deadline = start + Duration::from_secs(120);
    // A socket takes both directions, tcx has a link for each.
    let tapped = || if mode == "tcx" { Ok(newly.linked()) } else { newly.tapped(interfaces) };
    while tapped()? < interfaces.len() {
        ensure!(Instant::now() < deadline && agent.process().running(), "not all attached:\n{}", agent.log());
        // To a fortieth of what is measured: a core that looks around holds up grace periods.
        thread::sleep(Duration::from_millis(10).max(start.elapsed() / 40));
    }
    let attached = start.elapsed().as_secs_f64();
    // The last ones may be attached but not yet told.
    let sockets = agent.wait("all pods to be captured", Duration::from_secs(20), |records| {
        let good = records.iter().filter(|record| ATTACHED.contains(&record.state())).count();
        let sockets = records.iter().filter(|record| record.attach_mode() == "Socket").count();
        (good == interfaces.len()).then_some(sockets)
    })?;
    // The first few may be tapped in another way than those that wait behind them.
    let taps = if sockets > interfaces.len() / 2 { "Socket" } else { "Tcx" }.to_owned();
    Ok((attached, taps))
}

/// New interfaces tell the others of their addresses, for a while: that would be captured.
fn wait_until_silent(pods: &Pods) -> Result<()> {
    let sent = || pods.all().iter().map(flood::passed).sum::<Result<u64>>();
    let (mut before, mut since) = (sent()?, Instant::now());
    for _ in 0..60 {
        thread::sleep(Duration::from_millis(500));
        let now = sent()?;
        if now != before {
            (before, since) = (now, Instant::now());
        } else if since.elapsed() >= Duration::from_secs(5) {
            return Ok(());
        }
    }
    bail!("the pods do not fall silent")
}

/// Waits until the agent has nothing to do.
fn wait_until_idle(agent: &mut Agent) -> Result<()> {
    let process = agent.process().id();
    for _ in 0..100 {
        let before = cpu::time(process)?;
        thread::sleep(Duration::from_millis(300));
        if cpu::time(process)? - before < Duration::from_millis(9) {
            return Ok(());
        }
    }
    bail!("the agent does not come to rest:\n{}", agent.log())
}

/// Milliseconds of making each of some links while `going`; deletes them in the end. Their names begin like those of the
/// pods' interfaces, so what takes those down when the bench is killed takes these too.
fn links_made(tag: &str, going: &AtomicBool, most: usize, pause: Duration) -> Result<Values> {
    let netlink = Links::open()?;
    let mut times = Vec::new();
    let name = |number: usize| format!("{tag}l{number}");
    while going.load(Ordering::Relaxed) && times.len() < most {
        let start = Instant::now();
        netlink.add_veth(&name(times.len()))?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        thread::sleep(pause);
    }
    for number in 0..times.len() {
        netlink.delete(&name(number)).context("cleaning up")?;
    }
    Ok(times.into_iter().collect())
}
