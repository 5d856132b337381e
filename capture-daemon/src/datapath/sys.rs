//! The `bpf(2)` commands that podtap issues itself: links by interface index, and maps read as a whole.
//!
//! <https://docs.kernel.org/userspace-api/ebpf/syscall.html>

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya_obj::{
    copy_instructions,
    generated::{BPF_F_BEFORE, bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_type},
};
use capture_filter::insn::{Endian, INSN_BYTES, Insn, Reg};

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

/// What a map is made from.
pub(super) struct MapSpec<'a> {
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    pub(super) name: &'a str,
}

/// Makes a map.
#[doc(alias = "BPF_MAP_CREATE")]
pub(super) fn create_map(spec: &MapSpec<'_>) -> Result<OwnedFd, DatapathError> {
    let mut attr = empty();
    // SAFETY: the variant for BPF_MAP_CREATE is all integers.
    let map = unsafe { &mut attr.__bindgen_anon_1 };
    map.map_type = spec.map_type;
    map.key_size = spec.key_size;
    map.value_size = spec.value_size;
    map.max_entries = spec.max_entries;
    map.map_flags = spec.flags;
    copy_name(&mut map.map_name, spec.name);
    bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr)
        .map(owned)
        .map_err(|source| DatapathError::Syscall { call: "bpf(BPF_MAP_CREATE)", source })
}

/// Writes an array's only element, for good: the verifier may then take it for constant. Linux 5.2.
#[doc(alias = "BPF_MAP_FREEZE")]
pub(super) fn fill_and_freeze(map: BorrowedFd<'_>, value: &[u8]) -> Result<(), DatapathError> {
    let key = 0u32;
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    attr.__bindgen_anon_2.key = &raw const key as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr)
        .map_err(|source| DatapathError::Syscall { call: "bpf(BPF_MAP_UPDATE_ELEM)", source })?;
    let mut attr = empty();
    attr.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
    bpf(bpf_cmd::BPF_MAP_FREEZE, &mut attr)
        .map(drop)
        .map_err(|source| DatapathError::Syscall { call: "bpf(BPF_MAP_FREEZE)", source })
}

/// Loads type information. Linux 4.18.
#[doc(alias = "BPF_BTF_LOAD")]
pub(super) fn load_btf(btf: &[u8]) -> Result<OwnedFd, DatapathError> {
    let mut attr = empty();
    // SAFETY: the variant for BPF_BTF_LOAD is all integers.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = btf.as_ptr() as u64;
    load.btf_size = btf.len() as u32;
    bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr)
        .map(owned)
        .map_err(|source| DatapathError::Syscall { call: "bpf(BPF_BTF_LOAD)", source })
}

/// The program types that podtap loads.
#[derive(Clone, Copy, Debug)]
pub(super) enum ProgramType {
    /// `BPF_PROG_TYPE_SCHED_CLS`
    SchedClassifier,
    /// `BPF_PROG_TYPE_SOCKET_FILTER`
    SocketFilter,
}

/// What a program is made from.
pub(super) struct ProgramSpec<'a> {
    pub(super) program_type: ProgramType,
    pub(super) name: &'static str,
    pub(super) license: &'a CStr,
    pub(super) instructions: &'a [bpf_insn],
    pub(super) btf: Option<BorrowedFd<'a>>,
    /// Records of functions, and the size of one.
    pub(super) functions: (&'a [u8], usize),
    /// Records of source lines, and the size of one.
    pub(super) lines: (&'a [u8], usize),
}

/// Instructions of the kind that filters are made of, as those of the kernel programs.
pub(super) fn instructions(code: &[Insn]) -> Result<Vec<bpf_insn>, DatapathError> {
    let bytes: Vec<[u8; INSN_BYTES]> = code.iter().map(|insn| insn.to_bytes(Endian::NATIVE)).collect();
    copy_instructions(bytes.as_flattened()).map_err(|error| DatapathError::Object(error.to_string()))
}

/// Loads a program; on refusal once more, for the verifier's log.
#[doc(alias = "BPF_PROG_LOAD")]
pub(super) fn load_program(spec: &ProgramSpec<'_>) -> Result<OwnedFd, DatapathError> {
    /// The end of the log says why.
    const LOG_TAIL: usize = 2000;
    /// The verifier gives up with `EAGAIN` when its thread gets a signal, be it SIGCONT or a profiler's; it takes some
    /// milliseconds, so whoever is disturbed all the time has something else to complain of.
    const ATTEMPTS: usize = 50;
    let mut attempts = (0..ATTEMPTS).map(|_| try_load(spec, &mut []));
    let settled = |result: &io::Result<OwnedFd>| {
        result.as_ref().err().is_none_or(|error| error.kind() != io::ErrorKind::WouldBlock)
    };
    let source = match attempts.find(settled) {
        Some(Ok(program)) => return Ok(program),
        Some(Err(error)) => error,
        None => io::ErrorKind::WouldBlock.into(),
    };
    let mut log = vec![0u8; 16 << 20];
    let _ = try_load(spec, &mut log);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[end.saturating_sub(LOG_TAIL)..end]).into_owned();
    Err(DatapathError::Program { program: spec.name, source, log })
}

fn try_load(spec: &ProgramSpec<'_>, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = empty();
    // SAFETY: the variant for BPF_PROG_LOAD is all integers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = match spec.program_type {
        ProgramType::SchedClassifier => bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS,
        ProgramType::SocketFilter => bpf_prog_type::BPF_PROG_TYPE_SOCKET_FILTER,
    } as u32;
    load.insn_cnt = spec.instructions.len() as u32;
    load.insns = spec.instructions.as_ptr() as u64;
    load.license = spec.license.as_ptr() as u64;
    copy_name(&mut load.prog_name, spec.name);
    if let Some(btf) = spec.btf {
        load.prog_btf_fd = btf.as_raw_fd() as u32;
        for (records, pointer, count, size) in [
            (spec.functions, &mut load.func_info, &mut load.func_info_cnt, &mut load.func_info_rec_size),
            (spec.lines, &mut load.line_info, &mut load.line_info_cnt, &mut load.line_info_rec_size),
        ] {
            let (bytes, record) = records;
            if let Some(records) = bytes.len().checked_div(record) {
                *pointer = bytes.as_ptr() as u64;
                *count = records as u32;
                *size = record as u32;
            }
        }
    }
    if !log.is_empty() {
        load.log_level = 1;
        load.log_buf = log.as_mut_ptr() as u64;
        load.log_size = log.len() as u32;
    }
    bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).map(owned)
}

/// As much of a name as the kernel keeps, which wants it terminated and without special characters.
fn copy_name(to: &mut [libc::c_char; 16], name: &str) {
    for (place, byte) in to[..15].iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
}

/// Loads a tc program that does nothing but hand packets on.
pub(super) fn no_op_program() -> Result<OwnedFd, DatapathError> {
    load_program(&ProgramSpec {
        program_type: ProgramType::SchedClassifier,
        name: "podtap_warm",
        license: c"Dual MIT/GPL",
        // TCX_NEXT
        instructions: &instructions(&[Insn::set(Reg::R0, u32::MAX), Insn::EXIT])?,
        btf: None,
        functions: (&[], 0),
        lines: (&[], 0),
    })
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
