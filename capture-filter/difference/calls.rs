//! The calls of bpf(2) that only comparing takes.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// `union bpf_attr` for `BPF_MAP_CREATE`, as far as it is used; the kernel takes the rest for 0.
#[repr(C)]
pub(crate) struct MapCreate {
    pub(crate) map_type: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
    pub(crate) map_flags: u32,
}

/// `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
pub(crate) struct MapLookup {
    pub(crate) map_fd: u32,
    pub(crate) padding: u32,
    pub(crate) key: u64,
    pub(crate) value: u64,
    pub(crate) flags: u64,
}

/// `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
pub(crate) struct LinkCreate {
    pub(crate) prog_fd: u32,
    pub(crate) target_ifindex: u32,
    pub(crate) attach_type: u32,
    pub(crate) flags: u32,
}

/// # Safety
/// Every address in `attr` must be of memory that is as large as the kernel takes it for and lives during the call, and
/// memory that the kernel writes to must be borrowed mutably by the caller.
pub(crate) unsafe fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is a whole bpf_attr prefix of the size given; what it points to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    match result {
        0.. => Ok(result as libc::c_int),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kernel's answer as a descriptor.
pub(crate) fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for this call, close-on-exec; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
