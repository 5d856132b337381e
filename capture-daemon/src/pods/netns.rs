//! Network namespaces by their files, which are only opened to ask the kernel for the host's number of them.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

use super::cni::NETNS_DIRS;

/// `NSFS_MAGIC` of linux/magic.h: the file system that network namespace files live on.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Opens any path that a manifest names.
///
/// # Errors
/// It cannot be opened, or is no namespace.
pub(super) fn open_path(path: &Path) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open(path, flags, Mode::empty())
        .map_err(|error| format!("network namespace file {} cannot be opened ({error})", path.display()))?;
    check(file, || path.display().to_string())
}

/// Opens the namespace of that name in one of [`NETNS_DIRS`], never another file that a link there leads to.
///
/// # Errors
/// It cannot be opened, or is no namespace.
pub(super) fn open_name(name: &str) -> Result<OwnedFd, String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let mut last = Errno::NOENT;
    for directory in NETNS_DIRS {
        let opened = open(directory, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .and_then(|directory| openat2(&directory, name, flags, Mode::empty(), resolve));
        match opened {
            Ok(file) => return check(file, || format!("{directory}/{name}")),
            Err(error) => last = error,
        }
    }
    Err(format!("network namespace file {}/{name} cannot be opened ({last})", NETNS_DIRS[0]))
}

fn check(file: OwnedFd, path: impl FnOnce() -> String) -> Result<OwnedFd, String> {
    if rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type == NSFS_MAGIC) {
        return Ok(file);
    }
    // `ip netns add` makes an empty file first and mounts the namespace on it a moment later.
    Err(format!("{} is not a network namespace file; name one such as /var/run/netns/NAME", path()))
}
