//! The few kinds of bpf(2) and socket calls that running a filter takes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::KernelError;
use crate::insn::{Endian, Insn};

// Commands of bpf(2), include/uapi/linux/bpf.h.
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const BTF_LOAD: libc::c_int = 18;
/// Bytes kept of what the verifier says about a program that it refuses.
const LOG_BYTES: usize = 64 << 10;
/// Needed for no helper, but what the agent's own programs have.
const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";

/// What a program is attached to, and so what it may do (`enum bpf_prog_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramType {
    /// `BPF_PROG_TYPE_SOCKET_FILTER`.
    SocketFilter = 1,
    /// `BPF_PROG_TYPE_SCHED_CLS`: tc and tcx.
    Classifier = 3,
}

/// Where a function begins, and its type in the BTF (`struct bpf_func_info`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct FunctionInfo {
    /// Index of its first instruction.
    pub insn_off: u32,
    /// Id of its type.
    pub type_id: u32,
}

/// `union bpf_attr` for `BPF_PROG_LOAD`, as far as it is used; the kernel takes the rest for 0.
#[derive(Default)]
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[derive(Default)]
#[repr(C)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
}

/// `union bpf_attr` for `BPF_BTF_LOAD`.
#[derive(Default)]
#[repr(C)]
struct BtfLoadAttr {
    btf: u64,
    btf_log_buf: u64,
    btf_size: u32,
    btf_log_size: u32,
    btf_log_level: u32,
    padding: u32,
}

/// The fields of `struct __sk_buff` that a test run may set here.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct TestContext {
    unset_before: [u32; 2],
    /// The packet's mark.
    pub mark: u32,
    unset: [u32; 5],
    /// The packet's priority.
    pub priority: u32,
}

/// The address of a slice as the kernel takes it.
fn address<T>(slice: &[T]) -> u64 {
    slice.as_ptr() as u64
}

fn length<T>(slice: &[T]) -> u32 {
    u32::try_from(slice.len()).unwrap_or(u32::MAX)
}

/// # Safety
/// Every address in `attr` must be of memory that is as large as `attr` says and lives during the call, and memory that
/// the kernel writes to must be borrowed mutably by the caller.
unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a whole bpf_attr prefix of the size given; what it points to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    match result {
        0.. => Ok(result as libc::c_int),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's answer as a descriptor.
fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for this call, close-on-exec; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Loads a program.
///
/// # Errors
/// When the kernel refuses, with the end of the verifier's log.
pub fn load(
    program_type: ProgramType,
    code: &[Insn],
    functions: Option<(&OwnedFd, &[FunctionInfo])>,
) -> Result<OwnedFd, KernelError> {
    let bytes: Vec<u8> = code.iter().flat_map(|insn| insn.to_bytes(Endian::NATIVE)).collect();
    let mut attr = LoadAttr {
        prog_type: program_type as u32,
        insn_cnt: length(code),
        insns: address(&bytes),
        license: LICENSE.as_ptr() as u64,
        ..LoadAttr::default()
    };
    if let Some((btf, functions)) = functions {
        attr.prog_btf_fd = btf.as_raw_fd().cast_unsigned();
        attr.func_info_rec_size = size_of::<FunctionInfo>() as u32;
        attr.func_info = address(functions);
        attr.func_info_cnt = length(functions);
    }
    // SAFETY: instructions, license and function infos live until the end of this function, with the lengths given.
    if let Ok(fd) = unsafe { bpf(PROG_LOAD, &mut attr) } {
        return Ok(owned(fd));
    }
    // Once more, for the reason.
    let mut log = vec![0u8; LOG_BYTES];
    attr.log_level = 1;
    attr.log_size = length(&log);
    attr.log_buf = log.as_mut_ptr() as u64;
    // SAFETY: as above; the log is writable and has the length given.
    match unsafe { bpf(PROG_LOAD, &mut attr) } {
        Ok(fd) => Ok(owned(fd)),
        Err(source) => {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]);
            let last = log.lines().rev().find(|line| !line.starts_with("processed")).unwrap_or_default();
            Err(KernelError { call: "loading the program", detail: last.to_owned(), source })
        }
    }
}

/// Loads type information.
///
/// # Errors
/// When the kernel refuses.
pub fn load_btf(btf: &[u8]) -> Result<OwnedFd, KernelError> {
    let mut attr = BtfLoadAttr { btf: address(btf), btf_size: length(btf), ..BtfLoadAttr::default() };
    // SAFETY: `btf` lives during the call.
    unsafe { bpf(BTF_LOAD, &mut attr) }
        .map(owned)
        .map_err(|source| KernelError::new("loading the types", source))
}

/// Runs a program once over a frame; what it returned. The kernel takes no frame shorter than an Ethernet header, none
/// that is IP by its type and shorter than an IP header, and none longer than a page less some.
///
/// # Errors
/// `EINVAL` for a frame that it does not take.
pub fn test_run(program: &OwnedFd, frame: &[u8], context: Option<&TestContext>) -> io::Result<u32> {
    let mut attr = TestRunAttr {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        data_size_in: length(frame),
        data_in: address(frame),
        ..TestRunAttr::default()
    };
    if let Some(context) = context {
        attr.ctx_size_in = size_of::<TestContext>() as u32;
        attr.ctx_in = std::ptr::from_ref(context) as u64;
    }
    // SAFETY: frame and context live during the call; nothing is to be written to memory other than `attr`.
    unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
    Ok(attr.retval)
}

/// Makes a socket take only what a program lets through (`SO_ATTACH_BPF`).
///
/// # Errors
/// As setsockopt(2).
pub fn attach(socket: impl AsFd, program: &OwnedFd) -> io::Result<()> {
    set_option(socket, libc::SO_ATTACH_BPF, program.as_raw_fd())
}

/// Lets a socket queue this many bytes to send, beyond the system's limit (`SO_SNDBUFFORCE`).
///
/// # Errors
/// As setsockopt(2).
pub fn send_buffer(socket: impl AsFd, bytes: libc::c_int) -> io::Result<()> {
    set_option(socket, libc::SO_SNDBUFFORCE, bytes)
}

fn set_option(socket: impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an int, read during the call.
    match unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, option, std::ptr::from_ref(&value).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
