//! What podtap needs from the machine, found or installed. Each verb asks only for what it uses itself, so the demo
//! never waits for an emulator or a licence checker.

mod apt;
mod bpf;
mod deny;
mod go;

use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::command::output;
use crate::workspace::{cargo, find_program, root};

pub(crate) use apt::update as update_package_lists;
pub(crate) use bpf::{Toolchain, toolchain};
pub(crate) use deny::cargo_deny;
pub(crate) use go::go;

/// What something is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Compiling the user-space crates.
    Build,
    /// Compiling the kernel programs.
    Bpf,
    /// Pods as network namespaces, and reading what was captured.
    Pods,
    /// The programs that talk to each other in the demo.
    Demo,
    /// What podtap is measured with and against.
    Bench,
    /// Booting other kernels.
    Kernels,
    /// Linting the kernel programs, checking dependencies.
    Lint,
    /// A Kubernetes of our own.
    Cluster,
    /// Making container images.
    Image,
}

impl Purpose {
    /// Everything there is.
    pub(crate) const ALL: [Self; 9] = [
        Self::Build,
        Self::Bpf,
        Self::Pods,
        Self::Demo,
        Self::Bench,
        Self::Kernels,
        Self::Lint,
        Self::Cluster,
        Self::Image,
    ];
}

/// How it shows that something is there.
enum Probe {
    Program(&'static str),
    File(&'static str),
}

/// One thing that is needed, and the Debian package it comes from.
struct Need {
    purpose: Purpose,
    probe: Probe,
    package: &'static str,
    why: &'static str,
}

const fn program(purpose: Purpose, name: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { purpose, probe: Probe::Program(name), package, why }
}

const fn file(purpose: Purpose, path: &'static str, package: &'static str, why: &'static str) -> Need {
    Need { purpose, probe: Probe::File(path), package, why }
}

const NEEDS: &[Need] = &[
    program(Purpose::Build, "cc", "gcc", "links the programs"),
    file(Purpose::Build, "/usr/include/pcap/pcap.h", "libpcap-dev", "compiles capture filters"),
    program(Purpose::Pods, "ip", "iproute2", "makes pods out of network namespaces"),
    program(Purpose::Pods, "ping", "iputils-ping", "traffic"),
    program(Purpose::Pods, "tshark", "tshark", "reads captures"),
    program(Purpose::Pods, "capinfos", "wireshark-common", "reads captures"),
    program(Purpose::Pods, "tcpdump", "tcpdump", "reads captures"),
    program(Purpose::Bench, "dumpcap", "wireshark-common", "measured against"),
    program(Purpose::Bench, "iperf3", "iperf3", "TCP for measuring"),
    program(Purpose::Kernels, "qemu-system-x86_64", "qemu-system-x86", "boots other kernels"),
    program(Purpose::Kernels, "busybox", "busybox-static", "their user space"),
    program(Purpose::Kernels, "tc", "iproute2", "their user space"),
    program(Purpose::Kernels, "strip", "binutils", "makes their user space small"),
    program(Purpose::Kernels, "nsenter", "util-linux", "their user space"),
    program(Purpose::Kernels, "xz", "xz-utils", "unpacks their modules"),
    program(Purpose::Kernels, "dpkg-deb", "dpkg", "unpacks their packages"),
    program(Purpose::Demo, "busybox", "busybox-static", "the demo's HTTP server"),
    program(Purpose::Demo, "curl", "curl", "the demo's HTTP and TLS client"),
    program(Purpose::Demo, "dnsmasq", "dnsmasq-base", "the demo's DNS server"),
    program(Purpose::Demo, "dig", "bind9-dnsutils", "the demo's DNS client"),
    program(Purpose::Demo, "openssl", "openssl", "the demo's TLS server"),
    program(Purpose::Cluster, "etcd", "etcd-server", "the cluster's memory"),
    program(Purpose::Cluster, "containerd", "containerd", "runs the cluster's pods"),
    program(Purpose::Cluster, "runc", "runc", "runs the cluster's pods"),
    file(
        Purpose::Cluster,
        "/usr/lib/cni/bridge",
        "containernetworking-plugins",
        "connects the cluster's pods",
    ),
    program(Purpose::Cluster, "busybox", "busybox-static", "what the cluster's pods run"),
    program(Purpose::Cluster, "openssl", "openssl", "the cluster's certificates"),
    program(Purpose::Cluster, "ip", "iproute2", "the cluster's network"),
    program(Purpose::Cluster, "unshare", "util-linux", "the cluster's nodes"),
    program(Purpose::Image, "busybox", "busybox-static", "the images of tests"),
    program(Purpose::Image, "tar", "tar", "goes into the image"),
    program(Purpose::Image, "strip", "binutils", "makes the programs in the image small"),
    file(Purpose::Image, "/etc/ssl/certs/ca-certificates.crt", "ca-certificates", "goes into the image"),
    file(Purpose::Image, "/etc/services", "netbase", "names of ports in filters"),
];

impl Need {
    fn found(&self) -> bool {
        match self.probe {
            Probe::Program(name) => find_program(name).is_some(),
            Probe::File(path) => std::path::Path::new(path).exists(),
        }
    }

    fn name(&self) -> &'static str {
        match self.probe {
            Probe::Program(name) | Probe::File(name) => name,
        }
    }
}

/// Finds or installs what these purposes need. Says nothing and takes no time when all is there, unless it was asked
/// for everything.
pub(crate) fn prepare(purposes: &[Purpose]) -> Result<()> {
    let told = purposes.len() == Purpose::ALL.len();
    let mut missing = Vec::new();
    for need in NEEDS.iter().filter(|need| purposes.contains(&need.purpose)) {
        if need.found() {
            if told {
                println!("found    {:<26} {}", need.name(), need.why);
            }
        } else {
            missing.push(need);
        }
    }
    // What is compiled next can be fetched meanwhile. Compiling says what is wrong when it cannot.
    let fetching = if missing.is_empty() { None } else { fetch().spawn().ok() };
    install(&missing)?;
    if purposes.contains(&Purpose::Bpf) {
        let chain = toolchain()?;
        if told {
            println!("found    {:<26} builds the kernel programs", chain.name());
        }
    }
    if purposes.contains(&Purpose::Lint) {
        bpf::linter()?;
        let path = cargo_deny()?;
        if told {
            println!("found    {:<26} checks dependencies and licences", path.display());
        }
    }
    if purposes.contains(&Purpose::Cluster) && told {
        println!("found    {:<26} builds Kubernetes", go()?.display());
    }
    if let Some(mut fetching) = fetching {
        let _ = fetching.wait();
    }
    Ok(())
}

/// Fetches the crates that this machine's programs are made of.
fn fetch() -> Command {
    let mut command = cargo();
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.args(["fetch", "--locked", "--quiet", "--target", &target]).current_dir(root());
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn install(missing: &[&Need]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    for need in missing {
        println!("missing  {:<26} {} (package {})", need.name(), need.why, need.package);
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    apt::install(&packages)?;
    let still: Vec<&str> = missing.iter().filter(|need| !need.found()).map(|need| need.name()).collect();
    if !still.is_empty() {
        bail!("installed {}, and still cannot find {}", packages.join(" "), still.join(", "));
    }
    Ok(())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_ok_and(|text| text.trim() == "0")
}
