//! The data directory: whose it is, and opening things below it.
//!
//! Every path is opened one checked name at a time, relative to an open directory, and no symbolic link is followed:
//! who can write into the data directory can not point the agent elsewhere.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{StorageError, names, remover::Remover};

const LOCK: &str = ".lock";
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);
const PRIVATE: Mode = Mode::RWXU;

/// The open and locked data directory.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    directory: OwnedFd,
    remover: Remover,
    /// Held as long as this lives; the kernel lets go of it when the process dies.
    _lock: OwnedFd,
}

impl DataDir {
    /// Makes the directory if there is none, and locks it for this process.
    pub(super) fn open(path: &Path) -> Result<Self, StorageError> {
        use std::os::unix::fs::DirBuilderExt as _;
        let failed = |call| move |error: std::io::Error| StorageError::io(call, path, error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create"))?;
        let directory = rustix::fs::open(path, DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| StorageError::io("open", path, error))?;
        let lock = open_below(directory.as_fd(), LOCK, OFlags::CREATE, Mode::RUSR | Mode::WUSR)
            .map_err(|error| StorageError::io("open", path.join(LOCK), error))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let _ = File::from(lock).take(32).read_to_string(&mut text);
                return Err(StorageError::InUse {
                    directory: path.to_owned(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(error) => return Err(StorageError::io("lock", path.join(LOCK), error)),
        }
        // Only a help for whoever is refused; on a full disk it stays empty.
        if let Ok(file) = open_below(directory.as_fd(), LOCK, OFlags::WRONLY | OFlags::TRUNC, Mode::empty()) {
            let _ = writeln!(File::from(file), "{}", std::process::id());
        }
        let remover = Remover::start().map_err(failed("start a thread for"))?;
        Ok(Self { path: path.to_owned(), directory, remover, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Who frees the room of removed files.
    pub(super) const fn remover(&self) -> &Remover {
        &self.remover
    }
}

/// Opens `name` in `parent`. Names are one component each, checked by the caller.
pub(super) fn open_below(
    parent: BorrowedFd<'_>,
    name: &str,
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(parent, name, flags, mode, resolve) {
        // Before 5.6, or under a seccomp profile that does not know it: one component and NOFOLLOW come to the same.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(parent, name, flags, mode),
        other => other,
    }
}

/// Opens the directory `name` in `parent`, after making it if `create`.
pub(super) fn subdirectory(parent: BorrowedFd<'_>, name: &str, create: bool) -> Result<OwnedFd, Errno> {
    if create {
        match rustix::fs::mkdirat(parent, name, PRIVATE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    let directory = open_below(parent, name, DIRECTORY, Mode::empty())?;
    if create && Mode::from_raw_mode(rustix::fs::fstat(&directory)?.st_mode) != PRIVATE {
        rustix::fs::fchmod(&directory, PRIVATE)?;
    }
    Ok(directory)
}

/// The names in a directory that can be the agent's subdirectories (`directories`) or all other names.
pub(super) fn list(directory: BorrowedFd<'_>, directories: bool) -> Result<Vec<String>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => FileType::from_raw_mode(status.st_mode),
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error),
            },
            kind => kind,
        };
        if directories && kind == FileType::Directory && names::check(name).is_ok()
            || !directories && kind != FileType::Directory
        {
            found.push(name.to_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// Length in bytes of the regular file `name`; 0 for anything else.
pub(super) fn size_of(directory: BorrowedFd<'_>, name: &str) -> Result<u64, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(status) if FileType::from_raw_mode(status.st_mode) == FileType::RegularFile => {
            Ok(status.st_size as u64)
        }
        Ok(_) | Err(Errno::NOENT) => Ok(0),
        Err(error) => Err(error),
    }
}
