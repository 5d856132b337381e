//! The user space of an emulated machine: busybox, the tools that tests call, the tests, and an init that runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::archive::Archive;
use super::choice::Choice;
use super::package::Kernel;
use crate::command::output;
use crate::workspace::{find_program, own, target};

/// Modules that are not built in, in the order of loading.
const MODULES: [&str; 9] = ["llc", "stp", "bridge", "veth", "sch_ingress", "cls_bpf", "garp", "mrp", "8021q"];

/// Programs that the tests call. A shell too, because busybox's prefers busybox's programs to these.
const TOOLS: [&str; 12] =
    ["sh", "stat", "awk", "sed", "xargs", "ip", "tc", "bridge", "nsenter", "date", "ping", "tcpdump"];

/// The programs of podtap, as released.
const PODTAP: [&str; 2] = ["capture-daemon", "podtap-traffic"];

/// What ends the list of tests on the console.
pub(super) const DONE: &str = "all tests were run";

/// How the end of a test program is said on the console, followed by its name and status.
pub(super) const ENDED: &str = "test program ended:";

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/bin HOME=/ PODTAP_BIN_DIR=/podtap PODTAP_SCRATCH=/scratch
export PODTAP_OWN_READER_ONLY=1 PODTAP_SLOW_MACHINE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs -o size=512m tmpfs /scratch
mount -t bpf bpf /sys/fs/bpf
ln -s /run /var/run
hostname podtap
for module in /modules/*; do insmod "$module"; done
ip link set lo up
echo 'tcpdump:x:1:1:::' >/etc/passwd
echo "booted $(uname -r)"
"#;

/// Files by their place there.
pub(super) struct UserSpace {
    programs: Vec<(String, PathBuf)>,
    init: String,
}

impl UserSpace {
    /// With these tests, and programs that they call at their very paths.
    pub(super) fn with(choice: &Choice<'_>, called: &[PathBuf]) -> Result<Self> {
        let mut programs = vec![("/bin/busybox".to_owned(), find_program("busybox").context("no busybox")?)];
        for tool in TOOLS {
            let path = find_program(tool).with_context(|| format!("no {tool}"))?;
            programs.push((format!("/usr/sbin/{tool}"), path));
        }
        for program in PODTAP {
            programs.push((format!("/podtap/{program}"), stripped(&target().join("release").join(program))?));
        }
        for path in called {
            programs.push((path.display().to_string(), stripped(path)?));
        }
        let mut init = INIT.to_owned();
        for part in &choice.parts {
            let name = part.program.name();
            let path = format!("/podtap/{name}");
            programs.push((path.clone(), stripped(&part.program.path)?));
            // One at a time: less at once on a slow machine, and the console shows where one hangs.
            let names = part.tests.join(" ");
            init += &format!("{path} --ignored --test-threads=1 --exact {names} </dev/null 2>&1\n");
            init += &format!("echo \"{ENDED} {name} $?\"\n");
        }
        init += &format!("echo '{DONE}'\npoweroff -f\n");
        Ok(Self { programs, init })
    }

    /// All files, with the modules of that kernel.
    pub(super) fn archive(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut archive = Archive::default();
        for directory in ["proc", "sys", "dev", "run", "tmp", "scratch", "root", "etc", "var"] {
            archive.directory(directory);
        }
        // The names in filters.
        for names in ["/etc/protocols", "/etc/services", "/etc/ethertypes"] {
            archive.file(names, &std::fs::read(names).unwrap_or_default());
        }
        archive.file("/init", self.init.as_bytes());
        for (to, from) in &self.programs {
            archive.program(from, to)?;
        }
        for (number, module) in MODULES.iter().enumerate() {
            archive.file(&format!("/modules/{number}-{module}.ko"), &kernel.module(module)?);
        }
        Ok(archive.finish())
    }
}

/// A copy without debug information, which is nine tenths of a test program.
fn stripped(program: &Path) -> Result<PathBuf> {
    let directory = own().join("stripped");
    std::fs::create_dir_all(&directory)?;
    let copy = directory.join(program.file_name().context("no name")?);
    output(Command::new("strip").arg("-o").arg(&copy).arg(program))?;
    Ok(copy)
}
