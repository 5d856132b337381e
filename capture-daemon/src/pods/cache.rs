//! libcni's result cache as it is now: which interface of which sandbox each file names.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    net::IpAddr,
    os::{fd::AsFd as _, unix::ffi::OsStrExt as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2, statat},
};
use tracing::{debug, warn};

use super::{
    cni::{Attachment, parse},
    place::PodPlace,
};
use crate::watched::WatchedDirs;

/// The most files of one directory that are looked at. A node has some hundred pods.
const MOST_FILES: usize = 8192;
/// The most bytes of a file.
const MOST_BYTES: u64 = 256 << 10;
/// How often everything is looked at, although nothing was heard.
const RESCAN: Duration = Duration::from_secs(10);
/// The same while a directory is not there.
const MISSING: Duration = Duration::from_secs(1);

/// Nanoseconds since 1970 when a file was written.
type Written = i128;

/// By file: when it was written, and what it says.
type Table = HashMap<PathBuf, (Written, Arc<Attachment>)>;

/// What the cache says. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CniCache(Arc<Mutex<Table>>);

impl CniCache {
    /// Reads the directories, then follows what happens in them from a thread of its own, which calls `news` after
    /// each change. A directory need not be there yet.
    ///
    /// # Errors
    /// The system has no inotify instance or thread to give.
    pub fn watch(directories: Vec<PathBuf>, news: impl Fn() + Send + 'static) -> io::Result<Self> {
        let cache = Self::default();
        if directories.is_empty() {
            return Ok(cache);
        }
        let mut watcher = Watcher::new(directories, cache.clone())?;
        watcher.look_everywhere();
        thread::Builder::new().name("cni-cache".into()).spawn(move || watcher.run(news))?;
        Ok(cache)
    }

    /// The interfaces of that pod's newest sandbox, the default one first: eth0, else the first that it was given.
    pub(super) fn of(&self, pod: &PodPlace) -> Vec<Arc<Attachment>> {
        let table = self.lock();
        let mut own: Vec<&(Written, Arc<Attachment>)> = table
            .values()
            .filter(|(_, one)| {
                // Loopback is given by a CNI, too.
                one.interface != "lo"
                    && one.namespace == pod.namespace
                    && one.pod == pod.name
                    && pod.sandbox_uids.contains(&one.uid)
            })
            .collect();
        own.sort_by_key(|(written, one)| (*written, one.interface.clone()));
        let Some(newest) = own.last().map(|(_, newest)| newest.container.clone()) else { return Vec::new() };
        let mut found: Vec<Arc<Attachment>> = Vec::new();
        for (_, one) in own.into_iter().filter(|(_, one)| one.container == newest) {
            // Of two results for one interface the newer counts.
            match found.iter_mut().find(|known| known.interface == one.interface) {
                Some(known) => *known = Arc::clone(one),
                None => found.push(Arc::clone(one)),
            }
        }
        found.sort_by_key(|one| one.interface != "eth0");
        found
    }

    /// Whether other pods have results for the same namespace. One of them must be left over from a sandbox that is
    /// gone, and there is no telling which: nobody gets it.
    pub(super) fn is_contested(&self, attachment: &Attachment) -> bool {
        self.lock().values().any(|(_, one)| one.netns == attachment.netns && one.uid != attachment.uid)
    }

    /// Whether the cache gives the address to a sandbox of another pod.
    pub(super) fn gives_to_others(&self, address: IpAddr, pod: &PodPlace) -> bool {
        self.lock()
            .values()
            .any(|(_, one)| one.addresses.contains(&address) && !pod.sandbox_uids.contains(&one.uid))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is one insertion or removal.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What differs when a file is written or replaced.
type Fingerprint = (u64, i64, Written);

struct Directory {
    path: PathBuf,
    /// What the files were when they were read.
    files: HashMap<OsString, Fingerprint>,
}

struct Watcher {
    watch: WatchedDirs,
    /// In the order in which they are watched.
    directories: Vec<Directory>,
    cache: CniCache,
}

impl Watcher {
    fn new(directories: Vec<PathBuf>, cache: CniCache) -> io::Result<Self> {
        let watch = WatchedDirs::new(directories.clone())?;
        let directories = directories.into_iter().map(|path| Directory { path, files: HashMap::new() });
        Ok(Self { watch, directories: directories.collect(), cache })
    }

    fn run(mut self, news: impl Fn()) {
        loop {
            let pause = if self.watch.any_missing() { MISSING } else { RESCAN };
            let written = self.wait(pause);
            if self.look(&written) {
                news();
            }
        }
    }

    /// Waits for events; returns the files that were written, by directory.
    fn wait(&mut self, pause: Duration) -> Vec<(usize, OsString)> {
        let timeout = Timespec::try_from(pause).ok();
        let mut descriptors = [PollFd::from_borrowed_fd(self.watch.as_fd(), PollFlags::IN)];
        // Interrupted or not, everything is looked at.
        let _ = poll(&mut descriptors, timeout.as_ref());
        self.watch.written()
    }

    fn look_everywhere(&mut self) -> bool {
        self.look(&[])
    }

    /// Looks at all directories, and reads what changed and the files that were `written` again. True if anything is
    /// different.
    fn look(&mut self, written: &[(usize, OsString)]) -> bool {
        self.watch.renew();
        let mut changed = false;
        for (at, directory) in self.directories.iter_mut().enumerate() {
            for (_, name) in written.iter().filter(|(of, _)| *of == at) {
                directory.files.remove(name);
            }
            changed |= directory.look(&self.cache).unwrap_or_else(|_| directory.forget(&self.cache));
        }
        changed
    }
}

impl Directory {
    fn look(&mut self, cache: &CniCache) -> io::Result<bool> {
        let directory = open(&self.path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut present = BTreeSet::new();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name.as_bytes().starts_with(b".") {
                continue;
            }
            if present.len() == MOST_FILES {
                warn!(directory = %self.path.display(), most = MOST_FILES, "more CNI results than are looked at");
                break;
            }
            present.insert(name.to_owned());
        }
        let gone: Vec<OsString> =
            self.files.keys().filter(|name| !present.contains(*name)).cloned().collect();
        let mut changed = !gone.is_empty();
        for name in gone {
            self.files.remove(&name);
            cache.lock().remove(&self.path.join(&name));
        }
        for name in present {
            let Ok(stat) = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let found = fingerprint(&stat);
            if self.files.get(&name) == Some(&found) {
                continue;
            }
            changed = true;
            let path = self.path.join(&name);
            match read(&directory, &name) {
                Ok((found, attachment)) => {
                    cache.lock().insert(path, (found.2, Arc::new(attachment)));
                    self.files.insert(name, found);
                }
                Err(error) => {
                    debug!(file = %path.display(), error, "no CNI result that says where a pod is");
                    cache.lock().remove(&path);
                    self.files.insert(name, found);
                }
            }
        }
        Ok(changed)
    }

    /// The directory is not there: neither is what it said.
    fn forget(&mut self, cache: &CniCache) -> bool {
        for name in self.files.keys() {
            cache.lock().remove(&self.path.join(name));
        }
        !std::mem::take(&mut self.files).is_empty()
    }
}

#[expect(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
fn fingerprint(stat: &rustix::fs::Stat) -> Fingerprint {
    let written = stat.st_mtime as i128 * 1_000_000_000 + stat.st_mtime_nsec as i128;
    (stat.st_ino as u64, stat.st_size as i64, written)
}

/// A regular file of the directory, no link.
fn read(directory: &rustix::fd::OwnedFd, name: &OsStr) -> Result<(Fingerprint, Attachment), String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = openat2(directory, name, flags, Mode::empty(), resolve).map_err(|error| error.to_string())?;
    let stat = fstat(&file).map_err(|error| error.to_string())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("it is no regular file".into());
    }
    let mut bytes = Vec::new();
    File::from(file).take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it is larger than {MOST_BYTES} bytes"));
    }
    Ok((fingerprint(&stat), parse(&bytes)?))
}

#[cfg(test)]
mod tests;
