//! What the bench runs on, and how it is made ready.

use std::hint::black_box;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};
use podtap_tests::process::{output, target};
use serde_json::{Value, json};

/// What figures depend on: kernel, processor, disk, versions.
pub(crate) fn describe(scratch: &Path) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let first_line = |program: &str, argument: &str| {
        let said = Command::new(program).arg(argument).output();
        let text = said.map(|said| [said.stdout, said.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned()
    };
    json!({
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "processor": field(&cpuinfo, "model name"),
        // Not those that this thread is bound to.
        "cores": cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "memoryCopy": format!("{:.1} GB/s", copy_speed()),
        "disk": disk(scratch),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").trim(),
        "loadAverage": read("/proc/loadavg").split(' ').next(),
        "mitigations": mitigations(),
        "bpfJit": read("/proc/sys/net/core/bpf_jit_enable").trim(),
        "tcpdump": first_line("tcpdump", "--version"),
        "dumpcap": first_line("dumpcap", "--version"),
        "iperf3": first_line("iperf3", "--version"),
        "podtap": env!("CARGO_PKG_VERSION"),
    })
}

/// What the kernel does against faults of the processor that makes each return from a function dear.
fn mitigations() -> Value {
    let state = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/devices/system/cpu/vulnerabilities/{name}"));
        text.unwrap_or_default().trim().to_owned()
    };
    json!({"retbleed": state("retbleed"), "srso": state("spec_rstack_overflow"), "spectreV2": state("spectre_v2")})
}

/// Load above which others are taken to disturb.
const BUSY: f64 = 0.7;

/// Warns when other programs keep the machine busy: slices would measure those.
pub(crate) fn warn_if_busy() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let one_minute = load.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    if one_minute.is_some_and(|load| load > BUSY) {
        eprintln!("load average {}: other programs are at work, so the figures say little", load.trim());
    }
}

/// The file system that holds a directory, and how many bytes per second it takes past the page cache and through it.
fn disk(directory: &Path) -> Value {
    let listed = Command::new("df").args(["--output=source,fstype,avail", "-h"]).arg(directory).output();
    let text = listed.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
    let system: Vec<&str> = text.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    json!({"fileSystem": system.join(" "), "directWrite": write_speed(directory, "oflag=direct"), "pageCacheWrite": write_speed(directory, "conv=notrunc")})
}

/// Bytes per second of writing 1 GiB, 4 MiB at a time, as `dd` says it.
fn write_speed(directory: &Path, way: &str) -> String {
    let file = directory.join("dd");
    let said = Command::new("dd")
        .args(["if=/dev/zero", "bs=4M", "count=256", way])
        .arg(format!("of={}", file.display()))
        .env("LC_ALL", "C")
        .output();
    let _ = std::fs::remove_file(&file);
    let text = said.map(|said| String::from_utf8_lossy(&said.stderr).into_owned()).unwrap_or_default();
    text.trim().rsplit(", ").next().unwrap_or_default().to_owned()
}

/// GB per second that one core copies, packet by packet, out of memory as large as a ring into more of it than caches hold.
fn copy_speed() -> f64 {
    const PACKET: usize = 1400;
    let (ring, mut buffers) = (vec![1u8; 16 << 20], vec![2u8; 64 << 20]);
    let start = Instant::now();
    let mut copied = 0;
    for _ in 0..4 {
        for (to, from) in buffers.chunks_exact_mut(PACKET).zip(ring.chunks_exact(PACKET).cycle()) {
            to.copy_from_slice(black_box(from));
            copied += PACKET;
        }
        black_box(&mut buffers);
    }
    copied as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Touches memory once: in a virtual machine the first use of a page costs much more than any later one.
pub(crate) fn warm_memory() -> Result<()> {
    let meminfo = std::fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find(|line| line.starts_with("MemAvailable")).unwrap_or_default();
    let free: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    let mebibytes = (free / 1024 / 2).min(8 << 10);
    let path = Path::new("/dev/shm").join(format!("podtap-bench-{}", std::process::id()));
    let piece = vec![1u8; 1 << 20];
    let written = std::fs::File::create(&path)
        .and_then(|mut file| (0..mebibytes).try_for_each(|_| file.write_all(&piece)));
    let _ = std::fs::remove_file(&path);
    Ok(written?)
}

/// Has everything that was written or deleted reach the disk, so that no slice pays for the one before it.
pub(crate) fn settle_disk() -> Result<()> {
    output(Command::new("sync").arg("--file-system").arg(target())).map(drop)
}

/// Stops with what is missing, before anything is measured.
pub(crate) fn check() -> Result<()> {
    // SAFETY: takes nothing.
    if unsafe { libc::geteuid() } != 0 {
        bail!("measuring needs network namespaces and kernel programs: run it as root");
    }
    if std::thread::available_parallelism().map_or(0, usize::from) < 2 {
        bail!("the sender and the tools need a core each: two cores at least");
    }
    for program in ["tcpdump", "dumpcap", "iperf3"] {
        output(Command::new(program).arg("--version"))?;
    }
    Ok(())
}
