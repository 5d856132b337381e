//! The `bpf(2)` commands that podtap issues itself: links by interface index, and maps read as a whole.
//!
//! <https://docs.kernel.org/userspace-api/ebpf/syscall.html>

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};

use super::DatapathError;

/// Which tcx hook of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Packets that come in on the interface.
    Ingress,
    /// Packets that go out on it.
    Egress,
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a valid `bpf_attr` of the size given; callers fill in only memory that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn empty() -> bpf_attr {
    // SAFETY: all zero is a valid value of this union of integers.
    unsafe { std::mem::zeroed() }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this file descriptor, nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) }
}

/// Attaches a program at the head of a hook, by a link that ends with its file descriptor. Linux 6.6.
#[doc(alias = "BPF_LINK_CREATE")]
pub(super) fn tcx_link(program: BorrowedFd<'_>, ifindex: u32, hook: Hook) -> io::Result<OwnedFd> {
    let mut attr = empty();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    attr.link_create.attach_type = match hook {
        Hook::Ingress => bpf_attach_type::BPF_TCX_INGRESS,
        Hook::Egress => bpf_attach_type::BPF_TCX_EGRESS,
    } as u32;
    // "Before" without a neighbour: before all others.
    attr.link_create.flags = BPF_F_BEFORE;
    bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Replaces a link's program: every packet meets the old one or the new one. Linux 5.7.
#[doc(alias = "BPF_LINK_UPDATE")]
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_update.link_fd = link.as_raw_fd() as u32;
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches now, waiting until no CPU runs the program any more. Linux 5.9.
#[doc(alias = "BPF_LINK_DETACH")]
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = empty();
    attr.link_detach.link_fd = link.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// Reads one element; `value` has room for it (for a per-CPU map, 8-byte rounded, for each possible CPU).
#[doc(alias = "BPF_MAP_LOOKUP_ELEM")]
pub(super) fn map_lookup(map: BorrowedFd<'_>, key: u32, value: &mut [u64]) -> io::Result<()> {
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = &raw const key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr).map(drop)
}

/// Loads a tc program that does nothing but hand packets on.
pub(super) fn no_op_program() -> Result<OwnedFd, DatapathError> {
    // r0 = TCX_NEXT; exit
    let instructions: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    let license = c"Dual MIT/GPL";
    let mut attr = empty();
    // SAFETY: the variant for BPF_PROG_LOAD is all integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.insn_cnt = instructions.len() as u32;
    load.insns = instructions.as_ptr() as u64;
    load.license = license.as_ptr() as u64;
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr)
        .map(owned)
        .map_err(|source| DatapathError::Syscall { call: "bpf(BPF_PROG_LOAD)", source })
}

/// Waits until every program that was running when this was called has returned.
#[doc(alias = "membarrier")]
pub(super) fn wait_for_running_programs() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes no pointers. A grace period of RCU passes, and programs run in its read sections.
    let waited = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) } == 0;
    if !waited {
        // With nohz_full CPUs this command is refused. No program runs for anything like this long.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}
