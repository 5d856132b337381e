//! What the kernel tells of its BPF programs, and an empty program to compare with.

use std::ffi::c_long;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use aya_obj::generated::{
    BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_prog_info,
    bpf_prog_type, bpf_stats_type,
};

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<c_long> {
    // SAFETY: `attr` is a `bpf_attr` of the size given; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn empty() -> bpf_attr {
    // SAFETY: all zero is a valid value of this union of integers.
    unsafe { zeroed() }
}

fn owned(descriptor: c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this file descriptor, nobody else has it.
    unsafe { OwnedFd::from_raw_fd(descriptor as i32) }
}

/// While this lives, the kernel counts every program's runs and their time (`BPF_ENABLE_STATS`, Linux 5.8).
#[derive(Debug)]
pub(crate) struct RunStatistics(#[expect(dead_code, reason = "closing it ends the counting")] OwnedFd);

impl RunStatistics {
    /// Starts to count.
    pub(crate) fn enable() -> Result<Self> {
        let mut attr = empty();
        attr.enable_stats.type_ = bpf_stats_type::BPF_STATS_RUN_TIME as u32;
        let counting = bpf(bpf_cmd::BPF_ENABLE_STATS, &mut attr).context("BPF_ENABLE_STATS")?;
        Ok(Self(owned(counting)))
    }
}

/// While this lives, the kernel counts no runs although the administrator has it do so (`kernel.bpf_stats_enabled`):
/// it takes two looks at the clock a run, which is more than some of what is measured.
#[derive(Debug)]
pub(crate) struct NoStatistics(bool);

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl NoStatistics {
    /// Turns the counting off if it is on.
    pub(crate) fn begin() -> Result<Self> {
        let on = std::fs::read_to_string(STATISTICS).is_ok_and(|text| text.trim() != "0");
        if on {
            eprintln!("kernel.bpf_stats_enabled is on: off while measuring");
            std::fs::write(STATISTICS, "0").context("turning kernel.bpf_stats_enabled off")?;
        }
        Ok(Self(on))
    }
}

impl Drop for NoStatistics {
    fn drop(&mut self) {
        if self.0
            && let Err(error) = std::fs::write(STATISTICS, "1")
        {
            eprintln!("cannot turn kernel.bpf_stats_enabled on again: {error}");
        }
    }
}

/// One loaded program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) id: u32,
    /// How often it ran while that was counted.
    pub(crate) runs: u64,
    /// Nanoseconds of these runs.
    pub(crate) time: u64,
}

/// Ids of all objects of a kind.
fn ids(next: bpf_cmd) -> impl Iterator<Item = u32> {
    let mut last = 0;
    std::iter::from_fn(move || {
        let mut attr = empty();
        attr.__bindgen_anon_6.__bindgen_anon_1.start_id = last;
        bpf(next, &mut attr).ok()?;
        // SAFETY: the kernel has filled it in.
        last = unsafe { attr.__bindgen_anon_6.next_id };
        Some(last)
    })
}

/// What the kernel says of one object; none when it is gone.
fn info<T>(open: bpf_cmd, id: u32) -> Option<T> {
    let mut attr = empty();
    attr.__bindgen_anon_6.__bindgen_anon_1.start_id = id;
    let object = owned(bpf(open, &mut attr).ok()?);
    // SAFETY: the kernel's info structures are integers; zeros ask for no arrays.
    let mut info: T = unsafe { zeroed() };
    let mut attr = empty();
    attr.info.bpf_fd = object.as_raw_fd() as u32;
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).ok()?;
    Some(info)
}

/// What there is to tell of a program.
fn program(id: u32) -> Option<Program> {
    let info: bpf_prog_info = info(bpf_cmd::BPF_PROG_GET_FD_BY_ID, id)?;
    Some(Program { id, runs: info.run_cnt, time: info.run_time_ns })
}

/// Interface and program of each tcx link there is.
fn tcx() -> impl Iterator<Item = (u32, u32)> {
    ids(bpf_cmd::BPF_LINK_GET_NEXT_ID).filter_map(|id| {
        let info: bpf_link_info = info(bpf_cmd::BPF_LINK_GET_FD_BY_ID, id)?;
        if info.type_ != bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
            return None;
        }
        // SAFETY: the type says that this is the variant that the kernel has filled in.
        Some((unsafe { info.__bindgen_anon_1.tcx.ifindex }, info.prog_id))
    })
}

/// How many BPF links there are, of any kind.
pub(crate) fn links() -> usize {
    ids(bpf_cmd::BPF_LINK_GET_NEXT_ID).count()
}

/// Interface of each tcx link there is; an interface with programs in both directions is there twice.
pub(crate) fn tcx_links() -> Vec<u32> {
    tcx().map(|(interface, _)| interface).collect()
}

/// The programs on an interface, and where it has none (packet sockets do not tell), all there are.
pub(crate) fn programs(interface: u32) -> Vec<Program> {
    let mut wanted: Vec<u32> =
        tcx().filter(|(attached, _)| *attached == interface).map(|(_, program)| program).collect();
    if wanted.is_empty() {
        wanted.extend(ids(bpf_cmd::BPF_PROG_GET_NEXT_ID));
    }
    wanted.into_iter().filter_map(program).collect()
}

/// Of the programs that ran between two looks, the one that ran most: its runs and their time in between.
pub(crate) fn busiest(before: &[Program], after: &[Program]) -> Option<Program> {
    let difference = |now: &Program| {
        let then = before.iter().find(|then| then.id == now.id).copied().unwrap_or_default();
        Program { id: now.id, runs: now.runs - then.runs, time: now.time - then.time }
    };
    after.iter().map(difference).max_by_key(|program| program.runs)
}

/// A tc program that does nothing but hand the packet on, perhaps after something that is to be timed.
#[derive(Debug)]
pub(crate) struct EmptyProgram(OwnedFd);

/// What a program may do before it hands the packet on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    Nothing,
    /// Call a function of its own that returns at once.
    Call,
    /// Read the boot clock (`bpf_ktime_get_boot_ns`).
    BootClock,
    /// Ask the kernel for two bytes of the packet (`LD_ABS`).
    Load,
}

/// `r0 = TCX_NEXT; exit`
const NEXT: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];

impl Before {
    fn instructions(self) -> Vec<u64> {
        let (before, after): (&[u64], &[u64]) = match self {
            Self::Nothing => (&[], &[]),
            // call +2, to behind the exit: r0 = 0; exit
            Self::Call => (&[0x0000_0002_0000_1085], &[0xb7, 0x95]),
            // call helper 125
            Self::BootClock => (&[0x0000_007d_0000_0085], &[]),
            // r6 = r1; r0 = the packet's bytes 12 and 13
            Self::Load => (&[0x16bf, 0x0000_000c_0000_0028], &[]),
        };
        [before, &NEXT, after].concat()
    }
}

/// A hook of an interface.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hook {
    Ingress,
    Egress,
}

impl EmptyProgram {
    /// Loads it.
    pub(crate) fn load(before: Before) -> Result<Self> {
        let instructions = before.instructions();
        let license = c"GPL";
        let mut attr = empty();
        // SAFETY: the variant for BPF_PROG_LOAD is all integers.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
        load.insn_cnt = instructions.len() as u32;
        load.insns = instructions.as_ptr() as u64;
        load.license = license.as_ptr() as u64;
        bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(|loaded| Self(owned(loaded))).context("BPF_PROG_LOAD")
    }

    /// Attaches it at the head of an interface's hook, until what is returned is dropped.
    pub(crate) fn attach(&self, interface: u32, hook: Hook) -> io::Result<OwnedFd> {
        let mut attr = empty();
        attr.link_create.__bindgen_anon_1.prog_fd = self.0.as_raw_fd() as u32;
        attr.link_create.__bindgen_anon_2.target_ifindex = interface;
        attr.link_create.attach_type = match hook {
            Hook::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
            Hook::Egress => bpf_attach_type::BPF_TCX_EGRESS,
        } as u32;
        attr.link_create.flags = BPF_F_BEFORE;
        bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(owned)
    }

    /// Nanoseconds of a run, over a million of them without a packet's way through the kernel.
    pub(crate) fn run_time(&self) -> Result<f64> {
        const RUNS: u32 = 1_000_000;
        let packet = [0u8; 64];
        let mut attr = empty();
        attr.test.prog_fd = self.0.as_raw_fd() as u32;
        attr.test.data_in = packet.as_ptr() as u64;
        attr.test.data_size_in = packet.len() as u32;
        attr.test.repeat = RUNS;
        bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr).context("BPF_PROG_TEST_RUN")?;
        // SAFETY: the kernel has filled it in.
        Ok(f64::from(unsafe { attr.test.duration }))
    }
}
