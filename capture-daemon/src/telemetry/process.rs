//! What the agent's own process takes of the node. Looked up when somebody asks.

use std::fs;

use rustix::{
    param::page_size,
    process::{Resource, getrlimit},
    time::{ClockId, clock_gettime},
};

/// What the process has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    /// Bytes of memory in RAM, shared ones included; rings are in it when they are mapped.
    pub(super) resident: u64,
    /// Seconds on CPUs, in user and kernel mode.
    pub(super) cpu_seconds: f64,
    /// Open file descriptors.
    pub(super) open_files: u64,
    /// How many it may have open; none when there is no limit.
    pub(super) most_open_files: Option<u64>,
}

impl Process {
    /// Of this process. What cannot be found out is 0.
    #[must_use]
    pub(super) fn own() -> Self {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        // One of them is the directory itself, being read.
        let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
        Self {
            resident: pages * page_size() as u64,
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            open_files: open as u64,
            most_open_files: getrlimit(Resource::Nofile).current,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_seen() {
        let before = Process::own();
        assert!(before.resident > 1 << 20, "{before:?}");
        assert!(
            before.open_files >= 3 && before.most_open_files.is_none_or(|most| most >= before.open_files)
        );
        // Other tests of this process open and close files, too, but hardly so many each time.
        let grows_by_what_is_opened = || {
            let before = Process::own().open_files;
            let held: Vec<_> = (0..400).map(|_| fs::File::open("/proc/self/stat").unwrap()).collect();
            let grown = Process::own().open_files.abs_diff(before);
            drop(held);
            (350..450).contains(&grown)
        };
        assert!((0..100).any(|_| grows_by_what_is_opened()));
        assert!(Process::own().cpu_seconds > before.cpu_seconds);
    }
}
