//! The memory of a process that holds BPF maps.

use std::collections::HashSet;
use std::fs;

use anyhow::{Context as _, Result};

/// Bytes of a process's own memory, and of the BPF objects that it holds.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Its own, shared pages in proportion.
    pub own: u64,
    /// Maps and programs, rings among them.
    pub kernel_objects: u64,
}

impl Memory {
    /// Both together.
    pub const fn total(self) -> u64 {
        self.own + self.kernel_objects
    }
}

/// Bytes of a process in RAM, shared ones included: now, and at most so far.
pub fn resident(process: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("not in /proc")?;
        let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().context("not a number")?;
        Ok(kibibytes << 10)
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// Looks at a process. Rings that it maps are counted with the BPF objects only.
pub fn of(process: u32) -> Result<Memory> {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).context("smaps")?;
    let mut own = 0;
    let mut counts = true;
    for line in maps.lines() {
        if let Some(value) = line.strip_prefix("Pss:") {
            let kibibytes: u64 = value.trim().trim_end_matches(" kB").parse().context("Pss")?;
            own += if counts { kibibytes << 10 } else { 0 };
        } else if line.split(' ').next().is_some_and(|word| word.contains('-')) {
            counts = !line.contains("bpf-map");
        }
    }
    let mut seen = HashSet::new();
    let mut kernel_objects = 0;
    for descriptor in fs::read_dir(format!("/proc/{process}/fdinfo"))? {
        // One that was closed meanwhile.
        let Ok(text) = fs::read_to_string(descriptor?.path()) else { continue };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse::<u64>().ok()
        };
        let Some(locked) = field("memlock") else { continue };
        if seen.insert((field("map_id"), field("prog_id"))) {
            kernel_objects += locked;
        }
    }
    Ok(Memory { own, kernel_objects })
}
