//! The tests on other kernels: Debian's own, booted in QEMU with nothing but the tests and what they use.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::archive::Archive;
use super::total::Total;
use crate::command::{output, step};
use crate::workspace::{cargo, find_program, own, root, target};

/// Kernels to boot: the last release of each that this system's package lists have.
const KERNELS: [&str; 2] = ["6.1", "6.12"];

/// Modules that are not built in, in the order of loading.
const MODULES: [&str; 9] = ["llc", "stp", "bridge", "veth", "sch_ingress", "cls_bpf", "garp", "mrp", "8021q"];

/// Programs that the tests call; a shell too, because busybox's prefers busybox's programs to these.
const PROGRAMS: [&str; 6] = ["sh", "ip", "bridge", "nsenter", "date", "ping"];

/// What runs there of each test program: all its tests that need root, or those with one of these names. What is left
/// out depends on speed, which an emulated machine has not, or not on the kernel.
const TESTS: [(&str, &[&str]); 3] = [
    ("capture-daemon", &[]),
    ("capture-filter", &[]),
    (
        "podtap-tests",
        &[
            "a_limit_of_packets",
            "direction_and_snap_length",
            "two_captures_of_one_pod",
            "a_capture_pauses",
            "an_interface_that_appears_later",
            "an_index_used_again",
            "nothing_stays_on_the_interface",
            "unfinished_runs_go_on",
        ],
    ),
];

/// How long one kernel may take in all.
const PATIENCE: Duration = Duration::from_secs(600);

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin HOME=/ PODTAP_BIN_DIR=/podtap PODTAP_SCRATCH=/scratch PODTAP_OWN_READER_ONLY=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs -o size=1g tmpfs /scratch
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*; do insmod "$module"; done
ip link set lo up
echo "booted $(uname -r)"
for run in /podtap/run-*; do sh "$run" </dev/null 2>&1; done
echo "all done"
poweroff -f
"#;

/// Boots each kernel and runs the tests there.
pub(super) fn run(name: Option<&str>) -> Result<Total> {
    let archive = user_space(name)?;
    let mut total = Total::default();
    for version in KERNELS {
        total.add(boot(version, &archive)?);
    }
    Ok(total)
}

/// Everything but the modules.
fn user_space(name: Option<&str>) -> Result<Vec<(String, PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut add = |to: String, from: PathBuf| files.push((to, from, Vec::new()));
    add("/bin/busybox".to_owned(), find_program("busybox").context("no busybox")?);
    for program in PROGRAMS {
        let path = find_program(program).with_context(|| format!("no {program}"))?;
        add(format!("/usr/sbin/{program}"), path);
    }
    for program in ["capture-daemon", "podtap-traffic"] {
        add(format!("/podtap/{program}"), target().join("release").join(program));
    }
    for (package, tests) in TESTS {
        for (number, path) in test_programs(package)?.into_iter().enumerate() {
            let program = format!("/podtap/{package}-{number}");
            let names = name.map_or_else(|| tests.join(" "), str::to_owned);
            let line = format!("{program} --ignored --test-threads=1 {names}\n");
            files.push((program, path, Vec::new()));
            files.push((format!("/podtap/run-{package}-{number}"), PathBuf::new(), line.into_bytes()));
        }
    }
    Ok(files)
}

/// Builds a package's test programs and says where they are.
fn test_programs(package: &str) -> Result<Vec<PathBuf>> {
    let text = output(
        Command::new(cargo())
            .args(["test", "--no-run", "--message-format=json", "--package", package])
            .args(["--lib", "--bins", "--tests"])
            .current_dir(root()),
    )?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let tests = messages.filter(|message| message["profile"]["test"] == true);
    Ok(tests.filter_map(|message| Some(message["executable"].as_str()?.into())).collect())
}

fn boot(version: &str, files: &[(String, PathBuf, Vec<u8>)]) -> Result<Total> {
    let package = newest(version)?;
    let unpacked = unpack(&package)?;
    let release = package.trim_start_matches("linux-image-");
    let mut archive = Archive::default();
    for directory in ["proc", "sys", "dev", "run", "tmp", "scratch", "root", "etc"] {
        archive.directory(directory);
    }
    archive.file("/init", INIT.as_bytes());
    for (to, from, content) in files {
        if content.is_empty() {
            archive.program(from, to)?;
        } else {
            archive.file(to, content);
        }
    }
    for (number, module) in MODULES.iter().enumerate() {
        archive.file(&format!("/modules/{number}-{module}.ko"), &load_module(&unpacked, release, module)?);
    }
    let initial = own().join(format!("initial-{version}"));
    std::fs::write(&initial, archive.finish())?;
    run_machine(version, &unpacked.join("boot").join(format!("vmlinuz-{release}")), &initial)
}

/// The newest package of a kernel made for virtual machines.
fn newest(version: &str) -> Result<String> {
    let pattern = format!(r"^linux-image-{}\.[0-9.+a-z-]*cloud-amd64$", version.replace('.', r"\."));
    let found = output(Command::new("apt-cache").args(["search", "--names-only", &pattern]))?;
    let names = found.lines().filter_map(|line| line.split_whitespace().next());
    let key = |name: &&str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    let newest = names.max_by_key(key).map(str::to_owned);
    newest.with_context(|| format!("this system's package lists have no linux-image-{version}.*-cloud-amd64"))
}

/// Downloads and unpacks a package, without installing it, unless that was done before.
fn unpack(package: &str) -> Result<PathBuf> {
    let kernels = own().join("kernels");
    let unpacked = kernels.join(package);
    if unpacked.is_dir() {
        return Ok(unpacked);
    }
    // As root, apt-get wants to download as another user, who has no place here.
    let download = kernels.join(format!("{package}.download"));
    std::fs::create_dir_all(&download)?;
    let mut apt = Command::new("apt-get");
    apt.args(["-o", "APT::Sandbox::User=root", "download", package]).current_dir(&download);
    step(&format!("apt-get download {package}"), &mut apt)?;
    let file = std::fs::read_dir(&download)?.next().context("nothing was downloaded")??.path();
    let partial = kernels.join(format!("{package}.partial"));
    output(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&partial))?;
    std::fs::rename(&partial, &unpacked)?;
    std::fs::remove_dir_all(&download)?;
    Ok(unpacked)
}

/// A module's object, whether the package has it compressed or not.
fn load_module(unpacked: &Path, release: &str, module: &str) -> Result<Vec<u8>> {
    let kernel = unpacked.join("lib/modules").join(release).join("kernel");
    for directory in ["net/llc", "net/802", "net/bridge", "drivers/net", "net/sched", "net/8021q"] {
        let plain = kernel.join(directory).join(format!("{module}.ko"));
        if plain.exists() {
            return Ok(std::fs::read(plain)?);
        }
        let packed = plain.with_extension("ko.xz");
        if packed.exists() {
            let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(&packed).output()?;
            if !output.status.success() {
                bail!("xz cannot unpack {}", packed.display());
            }
            return Ok(output.stdout);
        }
    }
    bail!("{release} has no module {module}")
}

fn run_machine(version: &str, kernel: &Path, initial: &Path) -> Result<Total> {
    let mut qemu = Command::new("qemu-system-x86_64");
    // In software: nested virtualization, where it is offered, does not always work.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"]);
    qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-kernel"]).arg(kernel);
    qemu.arg("-initrd").arg(initial).args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]);
    let mut child = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let child =
        child.as_mut().map_err(|error| anyhow::anyhow!("cannot start qemu-system-x86_64: {error}"))?;
    let start = Instant::now();
    let lines = BufReader::new(child.stdout.take().context("no pipe")?).lines();
    let (send, receive) = std::sync::mpsc::channel();
    let reader =
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(send.send(line))));
    let mut total = Total::default();
    let mut finished = false;
    while let Ok(line) = receive.recv_timeout(PATIENCE.saturating_sub(start.elapsed())) {
        println!("linux {version}: {}", line.trim_end());
        total.read_line(line.trim_end());
        finished |= line.trim_end() == "all done";
    }
    // Over by itself, or beyond its time.
    let _ = child.kill();
    child.wait()?;
    let _ = reader.join();
    if !finished {
        eprintln!("error: linux {version} did not get to the end of its tests in {:?}", start.elapsed());
        total.failed += 1;
    }
    println!(
        "linux {version}: {} passed, {} failed in {:.0} s",
        total.passed,
        total.failed,
        start.elapsed().as_secs_f64()
    );
    Ok(total)
}
