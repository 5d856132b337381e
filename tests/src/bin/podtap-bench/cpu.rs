//! Processor time and cores.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Core of senders.
pub(crate) const SENDER: usize = 0;
/// Core of the tools that capture.
pub(crate) const CAPTURE: usize = 1;

/// User and system time of a process with all its threads, those that ended too, to the nanosecond.
pub(crate) fn time(process: u32) -> Result<Duration> {
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both pointers are to places of the right type.
    let status = unsafe { libc::clock_getcpuclockid(process as i32, &raw mut clock) };
    ensure!(status == 0, "no clock of process {process}: {}", std::io::Error::from_raw_os_error(status));
    // SAFETY: as above.
    let status = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(status == 0, "clock of process {process}: {}", std::io::Error::last_os_error());
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}

/// Nanoseconds on a core of each thread of a process, by thread name; threads that ended are not among them.
pub(crate) fn threads(process: u32) -> Result<Vec<(String, Duration)>> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?.path();
        let (Ok(name), Ok(times)) =
            (std::fs::read_to_string(task.join("comm")), std::fs::read_to_string(task.join("schedstat")))
        else {
            continue;
        };
        let spent =
            times.split_whitespace().next().and_then(|word| word.parse().ok()).context("schedstat")?;
        found.push((name.trim().to_owned(), Duration::from_nanos(spent)));
    }
    Ok(found)
}

/// Binds this thread, and the processes that it starts from now on, to one core, or to all of them.
pub(crate) fn bind(core: Option<usize>) -> Result<()> {
    bind_thread(0, core)
}

/// The same for all threads of a process that are there now.
pub(crate) fn bind_process(process: u32, core: Option<usize>) -> Result<()> {
    for task in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let name = task?.file_name();
        bind_thread(name.to_str().context("a thread's number")?.parse()?, core)?;
    }
    Ok(())
}

fn bind_thread(thread: libc::pid_t, core: Option<usize>) -> Result<()> {
    // SAFETY: an all-zero set is an empty one; `CPU_SET` checks the number; the set is of the size given.
    let status = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match core {
            Some(core) => libc::CPU_SET(core, &mut set),
            None => (0..libc::CPU_SETSIZE as usize).for_each(|core| libc::CPU_SET(core, &mut set)),
        }
        libc::sched_setaffinity(thread, size_of_val(&set), &raw const set)
    };
    ensure!(status == 0, "cannot bind to core {core:?}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Waits until a process does next to nothing for a while: what it had waiting is done.
pub(crate) fn until_quiet(process: u32) -> Result<()> {
    const STEP: Duration = Duration::from_millis(100);
    /// A quiet process's own upkeep in a step.
    const NOTHING: Duration = Duration::from_micros(1000);
    /// Longer than anybody here waits before writing what is there.
    const QUIET_STEPS: u32 = 7;
    let mut quiet = 0;
    let mut before = time(process)?;
    for _ in 0..200 {
        std::thread::sleep(STEP);
        let now = time(process)?;
        quiet = if now - before < NOTHING { quiet + 1 } else { 0 };
        before = now;
        if quiet == QUIET_STEPS {
            return Ok(());
        }
    }
    Ok(())
}
