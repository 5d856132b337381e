//! What the compiler's child gives up before it reads a hostile text.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

/// Seconds of CPU time.
pub const CPU_SECONDS: u64 = 1;
/// Bytes of address space, program and libraries included.
pub const ADDRESS_SPACE: u64 = 64 << 20;
/// Files open at once: the three it starts with, and a few lists of service and protocol names.
const FILES: u64 = 8;
/// `nobody`, by number: the name need not exist in a container.
const NOBODY: u32 = 65534;

/// Calls that reading a text, computing, and writing an answer take. None reaches another process, a socket or a device.
const CALLS: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Flags of `openat` that could change a file.
const CHANGING: libc::c_int = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;

/// Gives up, for good: files other than the standard three, more than little time and memory, capabilities, the user
/// root, new privileges by exec, and nearly all system calls (the others fail with EPERM, so looking up a name fails at
/// once). Needs no privilege itself.
///
/// # Errors
/// When any of it fails; the caller must then not go on.
pub fn enter() -> io::Result<()> {
    close_others()?;
    rustix::thread::set_no_new_privs(true)?;
    limits()?;
    if rustix::process::geteuid().is_root() {
        // Not possible everywhere; capabilities and system calls go in any case.
        let nobody = (rustix::process::Gid::from_raw(NOBODY), rustix::process::Uid::from_raw(NOBODY));
        let _ = rustix::thread::set_thread_groups(&[]);
        let _ = rustix::thread::set_thread_res_gid(nobody.0, nobody.0, nobody.0);
        let _ = rustix::thread::set_thread_res_uid(nobody.1, nobody.1, nobody.1);
    }
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )?;
    let filter = system_calls().map_err(|error| io::Error::other(format!("system call filter: {error}")))?;
    apply_filter(&filter).map_err(|error| io::Error::other(format!("system call filter: {error}")))
}

fn limits() -> io::Result<()> {
    let both = |limit| Rlimit { current: Some(limit), maximum: Some(limit) };
    // One second more before the limit that nobody can catch: the first tells the parent what happened.
    setrlimit(Resource::Cpu, Rlimit { current: Some(CPU_SECONDS), maximum: Some(CPU_SECONDS + 1) })?;
    setrlimit(Resource::As, both(ADDRESS_SPACE))?;
    setrlimit(Resource::Core, both(0))?;
    setrlimit(Resource::Fsize, both(0))?;
    setrlimit(Resource::Nofile, both(FILES))?;
    Ok(())
}

fn close_others() -> io::Result<()> {
    // SAFETY: close_range takes three integers. The process runs one thread, which owns no file but the standard three.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn system_calls() -> Result<BpfProgram, seccompiler::BackendError> {
    let without = |argument, bits: libc::c_int| {
        let bits = u64::from(bits.cast_unsigned());
        let condition =
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(bits), 0)?;
        SeccompRule::new(vec![condition])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = CALLS.iter().map(|&call| (call, Vec::new())).collect();
    // For reading only: /etc/services, /etc/protocols.
    rules.insert(libc::SYS_openat, vec![without(2, CHANGING)?]);
    // Memory, but no code.
    rules.insert(libc::SYS_mmap, vec![without(2, libc::PROT_EXEC)?]);
    rules.insert(libc::SYS_mprotect, vec![without(2, libc::PROT_EXEC)?]);
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, denied, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}
