//! One run's directory: `<data directory>/<namespace>/<record>`.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{AtFlags, Dir, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    FileInfo, FileName, Left, Recovered, StorageError,
    accounts::{Account, Accounts},
    directory::{DataDir, list, open_below, size_of, subdirectory},
    names, remover,
};

/// The truth about a run; what it says is not storage's business.
const RUN_FILE: &str = "run.json";
/// Not valid names of captures or records, so never in anyone's way; a crash may leave one behind.
const UNFINISHED: &str = ".new-";
/// The longest `run.json` that is read, in bytes.
const LONGEST_RUN_FILE: usize = 16 << 20;
/// A namespace's directory may be removed, because it is empty, while a new run is about to use it.
const ATTEMPTS: usize = 8;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

/// An open directory of a run. Clones are the same directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    data: Arc<DataDir>,
    account: Arc<Account>,
    namespace: String,
    record: String,
    directory: OwnedFd,
    /// The number of the next file, once one has been asked for.
    next_sequence: Mutex<Option<u32>>,
}

impl RunDir {
    pub(super) fn open(
        data: &Arc<DataDir>,
        accounts: &Arc<Accounts>,
        namespace: &str,
        record: &str,
        create: bool,
    ) -> Result<Self, StorageError> {
        names::check(namespace)?;
        names::check(record)?;
        let open = || {
            let parent = subdirectory(data.as_fd(), namespace, create)?;
            subdirectory(parent.as_fd(), record, create)
        };
        let mut directory = open();
        for _ in 0..ATTEMPTS {
            if !create || !matches!(directory, Err(Errno::NOENT)) {
                break;
            }
            directory = open();
        }
        let directory = directory
            .map_err(|error| StorageError::io("open", PathBuf::from(namespace).join(record), error))?;
        Ok(Self {
            inner: Arc::new(Inner {
                data: Arc::clone(data),
                account: Arc::new(Account::new(accounts)),
                namespace: namespace.to_owned(),
                record: record.to_owned(),
                directory,
                next_sequence: Mutex::default(),
            }),
        })
    }

    /// The directory's first name.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// The directory's second name.
    #[must_use]
    pub fn record(&self) -> &str {
        &self.inner.record
    }

    /// The whole path, to show to people.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.inner.data.path().join(&self.inner.namespace).join(&self.inner.record)
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.directory.as_fd()
    }

    pub(super) fn account(&self) -> &Arc<Account> {
        &self.inner.account
    }

    /// Says whose run this is: all runs of an owner share `StorageConfig::namespace_quota_bytes`. The first owner
    /// stays; a run of nobody counts for the whole data directory only.
    ///
    /// # Errors
    /// When the directory cannot be read, and then the run is still nobody's.
    pub fn charge(&self, owner: &str) -> Result<(), StorageError> {
        let Inner { namespace, record, account, .. } = &*self.inner;
        account.charge(namespace, record, owner, self.bytes()?);
        Ok(())
    }

    /// Bytes of all runs of this run's owner.
    #[must_use]
    pub fn owner_bytes(&self) -> u64 {
        self.inner.account.owner_used()
    }

    /// A number for a new file: at least `least`, and above every other of this run.
    pub(super) fn next_sequence(&self, least: u32) -> Result<u32, StorageError> {
        let mut next = self.inner.next_sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let above = match *next {
            Some(next) => next,
            None => self.files()?.last().map_or(0, |file| file.sequence.saturating_add(1)),
        };
        let sequence = above.max(least);
        *next = Some(sequence.saturating_add(1));
        Ok(sequence)
    }

    pub(super) fn has_json(&self) -> bool {
        rustix::fs::accessat(self.as_fd(), RUN_FILE, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
    }

    /// Reads `run.json`; nothing when there is none.
    pub fn read_json(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let file = match open_below(self.as_fd(), RUN_FILE, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
        {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed("open", RUN_FILE, error)),
        };
        let mut bytes = Vec::new();
        file.take(LONGEST_RUN_FILE as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.failed("read", RUN_FILE, error))?;
        if bytes.len() > LONGEST_RUN_FILE {
            return Err(StorageError::TooLong(
                self.path().join(RUN_FILE).display().to_string(),
                LONGEST_RUN_FILE,
            ));
        }
        Ok(Some(bytes))
    }

    /// Replaces `run.json` as a whole: whoever reads it sees the old or the new one.
    pub fn write_json(&self, bytes: &[u8]) -> Result<(), StorageError> {
        let before = size_of(self.as_fd(), RUN_FILE).unwrap_or(0);
        let (file, unfinished) = self.create_unfinished(RUN_FILE)?;
        let written = File::from(file)
            .write_all(bytes)
            .map_err(|error| self.failed("write", RUN_FILE, error))
            .and_then(|()| {
                rustix::fs::renameat(self.as_fd(), &unfinished, self.as_fd(), RUN_FILE)
                    .map_err(|error| self.failed("rename", RUN_FILE, error))
            });
        match &written {
            Ok(()) => self.inner.account.changed(before, bytes.len() as u64),
            Err(_) => self.unlink_unfinished(&unfinished),
        }
        written
    }

    /// Makes a file under a name that nobody takes for finished.
    pub(super) fn create_unfinished(&self, name: &str) -> Result<(OwnedFd, String), StorageError> {
        let unfinished = format!("{UNFINISHED}{name}");
        // Names of 255 bytes have no room for the mark; their ends (time and number) still tell files apart.
        let unfinished = if unfinished.len() > 255 {
            format!("{UNFINISHED}{}", &name[name.ceil_char_boundary(name.len() - 100)..])
        } else {
            unfinished
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut file = open_below(self.as_fd(), &unfinished, flags, FILE_MODE);
        if matches!(file, Err(Errno::EXIST)) {
            // Left behind by a crash.
            self.unlink_unfinished(&unfinished);
            file = open_below(self.as_fd(), &unfinished, flags, FILE_MODE);
        }
        Ok((file.map_err(|error| self.failed("create", name, error))?, unfinished))
    }

    pub(super) fn unlink_unfinished(&self, unfinished: &str) {
        let _ = rustix::fs::unlinkat(self.as_fd(), unfinished, AtFlags::empty());
    }

    /// The capture files, by number. Packets are not counted.
    pub fn files(&self) -> Result<Vec<FileInfo>, StorageError> {
        let list = list(self.as_fd(), false).map_err(|error| self.failed("list", "", error))?;
        let mut files = Vec::new();
        for name in list.iter().filter_map(|name| FileName::parse(name)) {
            let bytes =
                size_of(self.as_fd(), &name.name).map_err(|error| self.failed("stat", &name.name, error))?;
            files.push(FileInfo { name: name.name, sequence: name.sequence, bytes, packets: None, cut: 0 });
        }
        files.sort_by(|a, b| (a.sequence, &a.name).cmp(&(b.sequence, &b.name)));
        Ok(files)
    }

    /// Whether nothing is in the directory but what an agent was about to make when it died.
    pub(super) fn is_unused(&self) -> Result<bool, StorageError> {
        let failed = |error: Errno| self.failed("list", "", error);
        for entry in Dir::read_from(self.as_fd()).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") && !name.starts_with(UNFINISHED.as_bytes()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// When anything in the directory was last changed: it itself, or a file's contents.
    pub fn changed(&self) -> Result<SystemTime, StorageError> {
        let failed = |error: Errno| self.failed("stat", "", error);
        let mut latest = modified(&rustix::fs::fstat(self.as_fd()).map_err(failed)?);
        for name in list(self.as_fd(), false).map_err(failed)? {
            match rustix::fs::statat(self.as_fd(), &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => latest = latest.max(modified(&status)),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(self.failed("stat", &name, error)),
            }
        }
        Ok(latest)
    }

    /// Bytes of everything in the directory.
    pub fn bytes(&self) -> Result<u64, StorageError> {
        directory_bytes(self.as_fd()).map_err(|error| self.failed("list", "", error))
    }

    /// Makes a file readable that an agent left behind when it died, and counts its packets.
    ///
    /// It is read from its start and cut after its last whole block; one that holds no packet is removed. New streams and
    /// their rotation may go on meanwhile. Slow for a large file (it reads it), so not for the engine's thread.
    ///
    /// # Errors
    /// When the file cannot be opened, read or cut.
    pub fn recover(&self, name: &str) -> Result<Recovered, StorageError> {
        self.left(name)?.map_or(Ok(Recovered::Missing), Left::recover)
    }

    /// Holds such a file until there is time to [`recover`](Left::recover) it; nothing when there is none. A file
    /// descriptor each.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn left(&self, name: &str) -> Result<Option<Left>, StorageError> {
        Left::open(self, name)
    }

    /// Removes what an agent that died was about to make. Only while nothing is written here.
    pub fn remove_unfinished(&self) -> Result<(), StorageError> {
        for name in list(self.as_fd(), false).map_err(|error| self.failed("list", "", error))? {
            if name.starts_with(UNFINISHED) {
                self.unlink_unfinished(&name);
            }
        }
        Ok(())
    }

    /// Removes one file of this directory and returns how long it was; nothing when it is not there, or somebody else
    /// was faster. The room of a large one is free some time later.
    pub(super) fn remove_file(&self, name: &str) -> Result<Option<u64>, StorageError> {
        let bytes = size_of(self.as_fd(), name).map_err(|error| self.failed("stat", name, error))?;
        // Without it the file is freed as its name goes.
        let held = (bytes > remover::AT_ONCE)
            .then(|| open_below(self.as_fd(), name, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok());
        match rustix::fs::unlinkat(self.as_fd(), name, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed("remove", name, error)),
        }
        self.inner.account.removed(bytes);
        if let Some(file) = held.flatten() {
            self.inner.data.remover().free(file);
        }
        Ok(Some(bytes))
    }

    /// Removes the captures and keeps `run.json`.
    pub fn remove_files(&self) -> Result<(), StorageError> {
        for file in self.files()? {
            self.remove_file(&file.name)?;
        }
        // There is more room now, and whoever waits for it should not wait for the next sample.
        self.inner.account.all().sample(self.inner.data.as_fd(), self.inner.data.path())
    }

    /// Removes the run: its captures, `run.json` last, the directory, and the namespace's directory if it is empty
    /// then. What the agent did not make stays, and with it the directory: that is an error.
    pub fn remove(self) -> Result<(), StorageError> {
        self.remove_files()?;
        self.remove_unfinished()?;
        self.remove_file(RUN_FILE)?;
        let Inner { data, namespace, record, .. } = &*self.inner;
        let parent = match subdirectory(data.as_fd(), namespace, false) {
            Ok(parent) => parent,
            Err(Errno::NOENT) => {
                self.inner.account.all().forget(namespace, record);
                return Ok(());
            }
            Err(error) => return Err(StorageError::io("open", namespace, error)),
        };
        match rustix::fs::unlinkat(&parent, record.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(self.failed("remove", "", error)),
        }
        self.inner.account.all().forget(namespace, record);
        match rustix::fs::unlinkat(data.as_fd(), namespace.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(StorageError::io("remove", namespace, error)),
        }
        Ok(())
    }

    pub(super) fn failed(
        &self,
        call: &'static str,
        name: &str,
        error: impl Into<std::io::Error>,
    ) -> StorageError {
        StorageError::io(call, self.path().join(name), error)
    }
}

fn modified(status: &Stat) -> SystemTime {
    let seconds = Duration::from_secs(u64::try_from(status.st_mtime).unwrap_or(0));
    SystemTime::UNIX_EPOCH + seconds
}

/// Bytes of the regular files in a directory.
pub(super) fn directory_bytes(directory: BorrowedFd<'_>) -> Result<u64, Errno> {
    let mut bytes = 0;
    for name in list(directory, false)? {
        bytes += size_of(directory, &name)?;
    }
    Ok(bytes)
}
