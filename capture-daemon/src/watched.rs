//! Directories whose files others write: which files were written is heard of, also in a directory that comes later, or
//! goes and comes back.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};

/// Some directories, by their paths. There is something to read when something has happened in one of them.
pub(crate) struct WatchedDirs {
    inotify: Inotify,
    /// With the watch of each that is there.
    directories: Vec<(PathBuf, Option<WatchDescriptor>)>,
}

impl WatchedDirs {
    /// Those at these paths, of which nothing is heard before they are [`renew`](Self::renew)ed.
    ///
    /// # Errors
    /// The system has no inotify instance to give.
    pub(crate) fn new(paths: impl IntoIterator<Item = PathBuf>) -> io::Result<Self> {
        let directories = paths.into_iter().map(|path| (path, None)).collect();
        Ok(Self { inotify: Inotify::init()?, directories })
    }

    /// Watches the directories that are at the paths now.
    pub(crate) fn renew(&mut self) {
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVE | WatchMask::DELETE | WatchMask::ONLYDIR;
        for (path, descriptor) in &mut self.directories {
            // The kernel gives the same descriptor for the same directory.
            let now = self.inotify.watches().add(&*path, mask).ok();
            if let Some(old) = descriptor.take().filter(|old| Some(old) != now.as_ref()) {
                let _ = self.inotify.watches().remove(old);
            }
            *descriptor = now;
        }
    }

    /// Whether one of them could not be watched.
    pub(crate) fn any_missing(&self) -> bool {
        self.directories.iter().any(|(_, descriptor)| descriptor.is_none())
    }

    /// The files that a writer has closed or renamed into place since it was last asked, each with the place of its
    /// directory among the paths.
    pub(crate) fn written(&mut self) -> Vec<(usize, OsString)> {
        let mut written = Vec::new();
        let mut buffer = [0; 16 << 10];
        while let Ok(events) = self.inotify.read_events(&mut buffer) {
            for event in events {
                if let Some(name) = event.name
                    && event.mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO)
                {
                    let at = |(_, descriptor): &(_, Option<_>)| *descriptor == Some(event.wd.clone());
                    written.extend(self.directories.iter().position(at).map(|at| (at, name.to_owned())));
                }
            }
        }
        written
    }
}

impl AsFd for WatchedDirs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
