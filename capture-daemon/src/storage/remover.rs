//! Gives back the room of large files that are gone from their directory.
//!
//! A file system frees a file in one go, some 0.2 ms for each MiB, in which nobody else's write begins (ext4): longer than
//! rings last under a flood. So a thread of its own cuts such files shorter bit by bit, and lets others go first in between.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::mpsc::{SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

/// What is freed in one go, in bytes.
pub(super) const AT_ONCE: u64 = 8 << 20;
/// So many files wait at a time; others are freed by whoever removes them.
const WAITING: usize = 64;
/// The longest pause between two cuts.
const PAUSE: Duration = Duration::from_millis(50);

/// The thread that does it. It ends with this, when all is freed.
#[derive(Debug)]
pub(super) struct Remover(SyncSender<OwnedFd>);

impl Remover {
    pub(super) fn start() -> io::Result<Self> {
        let (files, removed) = sync_channel::<OwnedFd>(WAITING);
        thread::Builder::new()
            .name("remover".to_owned())
            .spawn(move || removed.into_iter().for_each(free))?;
        Ok(Self(files))
    }

    /// Frees a file that has no name any more, and was opened for writing.
    pub(super) fn free(&self, file: OwnedFd) {
        // One that comes back is freed here and now.
        drop(self.0.try_send(file));
    }
}

fn free(file: OwnedFd) {
    let file = File::from(file);
    // Who still reads it shall read all of it; then it is freed when they are done.
    if !is_held_by_nobody_else(&file) {
        return;
    }
    let mut length = file.metadata().map_or(0, |metadata| metadata.len());
    while length > AT_ONCE {
        length -= AT_ONCE;
        let since = Instant::now();
        if file.set_len(length).is_err() {
            return;
        }
        thread::sleep(since.elapsed().min(PAUSE));
    }
}

/// Whether this is the only open description of a file. The kernel gives a write lease, `F_SETLEASE` in fcntl(2), for no
/// other. Nobody can open the file afterwards, as it has no name.
fn is_held_by_nobody_else(file: &File) -> bool {
    /// From `linux/fcntl.h`: the signal that tells of somebody who opens a leased file.
    const F_SETSIG: libc::c_int = 10;
    // SAFETY: takes no pointers. Of the signal, which could come through /proc in between, nobody takes notice by default.
    unsafe {
        let fd = file.as_raw_fd();
        let leased = libc::fcntl(fd, F_SETSIG, libc::SIGURG) == 0
            && libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) == 0;
        leased && libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) == 0
    }
}
