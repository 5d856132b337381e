//! The data directory's owner: opens it, starts the writers, and makes runs and streams.

use std::{
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
};

use rustix::fs::{Mode, OFlags, fcntl_setfl, unlinkat};

use super::{
    FileStream, RunDir, StorageError, StorageEvent, StorageFailure, StreamSpec,
    accounts::{Accounts, Found},
    budget::WriteBudget,
    directory::{DataDir, list, open_below, subdirectory},
    housekeeping::Housekeeping,
    lane::{Lane, Lanes, Ready},
    layout::PAGE,
    names,
    pool::{CHUNK, Pool},
    run::directory_bytes,
    stream::{LONGEST_CLOSING, Surroundings},
    worker::Worker,
    writer,
};
use crate::{delays::Delays, pulse::Pulse};

/// The node's settings.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// Where files go; made if there is none.
    pub data_dir: PathBuf,
    /// Memory for buffers of all streams, in bytes; at least one buffer (256 KiB) is had.
    pub buffer_bytes: u64,
    /// Threads that write; at least 1.
    pub writers: usize,
    /// The node's write cap, in bytes/s.
    pub write_bytes_per_second: Option<u64>,
    /// What the data directory may hold, in bytes.
    pub quota_bytes: Option<u64>,
    /// What the runs of one owner may hold together, in bytes; see [`RunDir::charge`].
    pub namespace_quota_bytes: Option<u64>,
    /// How full the file system may become, in percent as df(1) reckons.
    pub max_disk_percent: u8,
}

/// Room that is used and left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all files in the data directory.
    pub used: u64,
    /// Its quota.
    pub quota: Option<u64>,
    /// The quota of each owner of runs.
    pub namespace_quota: Option<u64>,
    /// What the file system has left for anyone, in bytes.
    pub disk_free: u64,
    /// Whether it is mounted read-only.
    pub read_only: bool,
    /// Bytes of buffers that streams have.
    pub buffers_used: u64,
    /// Bytes of buffers that there are.
    pub buffers: u64,
}

/// The data directory and its writers. Clones are the same. When the last one goes, the writers write what was
/// handed to them, and stop; streams must have been closed before.
#[derive(Clone)]
pub struct Storage {
    inner: Arc<Inner>,
}

struct Inner {
    data: Arc<DataDir>,
    surroundings: Surroundings,
    lanes: Arc<Lanes>,
    writers: Vec<JoinHandle<()>>,
    pulses: Vec<Pulse>,
    writes: Delays,
    _housekeeping: Housekeeping,
}

impl Storage {
    /// Opens and locks the data directory, counts what it holds, and starts the writers.
    pub fn open(config: StorageConfig) -> Result<Self, StorageError> {
        if config.max_disk_percent > 100 {
            return Err(StorageError::Setting("the disk cannot be filled by more than 100 percent"));
        }
        let data = Arc::new(DataDir::open(&config.data_dir)?);
        let accounts = Arc::new(Accounts::new(
            config.quota_bytes,
            config.namespace_quota_bytes,
            config.max_disk_percent,
        ));
        accounts.recount(|found| count(&data, found))?;
        accounts.sample(data.as_fd(), data.path())?;
        let pool = Pool::new(config.buffer_bytes)
            .map_err(|error| StorageError::io("reserve buffers for", &config.data_dir, error))?;
        let (ready, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let pulses: Vec<Pulse> =
            (0..config.writers.max(1)).map(|number| Pulse::new(format!("writer-{number}"))).collect();
        let writes = Delays::default();
        let writers = pulses
            .iter()
            .enumerate()
            .map(|(number, pulse)| {
                writer::start(number, Arc::clone(&queue), ready.clone(), pulse.clone(), writes.clone())
            })
            .collect::<Result<_, _>>()
            .map_err(|error| StorageError::io("start writers for", &config.data_dir, error))?;
        let housekeeping =
            Housekeeping::start(Arc::clone(&data), Arc::clone(&accounts), Arc::clone(&pool))
                .map_err(|error| StorageError::io("start housekeeping for", &config.data_dir, error))?;
        let surroundings = Surroundings {
            direct: has_direct_way(&data, &pool),
            pool,
            accounts,
            budget: config.write_bytes_per_second.map(|cap| Arc::new(WriteBudget::new(cap))),
            ready,
        };
        let inner = Inner {
            data,
            surroundings,
            lanes: Arc::default(),
            writers,
            pulses,
            writes,
            _housekeeping: housekeeping,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The existing runs: directories with a `run.json`.
    pub fn runs(&self) -> Result<Vec<RunDir>, StorageError> {
        self.directories(true)
    }

    /// Directories of runs without a `run.json`: an agent died when it made them, or took them away.
    pub fn strays(&self) -> Result<Vec<RunDir>, StorageError> {
        self.directories(false)
    }

    fn directories(&self, with_json: bool) -> Result<Vec<RunDir>, StorageError> {
        let mut runs = Vec::new();
        for (namespace, record) in records(&self.inner.data)? {
            let Ok(run) = self.open_run(&namespace, &record, false) else { continue };
            if run.has_json() == with_json {
                runs.push(run);
            }
        }
        Ok(runs)
    }

    /// Makes the directory of a new run, or takes one that an agent died with before it put anything into it. None when
    /// there is one that holds something, whosever that is.
    pub fn new_run(&self, namespace: &str, record: &str) -> Result<Option<RunDir>, StorageError> {
        let run = self.run_dir(namespace, record)?;
        Ok(run.is_unused()?.then_some(run))
    }

    /// Opens a run's directory, after making it if there is none.
    pub fn run_dir(&self, namespace: &str, record: &str) -> Result<RunDir, StorageError> {
        self.open_run(namespace, record, true)
    }

    fn open_run(&self, namespace: &str, record: &str, create: bool) -> Result<RunDir, StorageError> {
        RunDir::open(&self.inner.data, &self.inner.surroundings.accounts, namespace, record, create)
    }

    /// The namespaces that have a directory.
    pub fn namespaces(&self) -> Result<Vec<String>, StorageError> {
        list(self.inner.data.as_fd(), true)
            .map_err(|error| StorageError::io("list", self.inner.data.path(), error))
    }

    /// Bytes of all runs of a namespace; 0 when it has none.
    pub fn namespace_bytes(&self, namespace: &str) -> Result<u64, StorageError> {
        names::check(namespace)?;
        let mut sum = 0;
        count_namespace(&self.inner.data, namespace, &mut |_, _, bytes| sum += bytes)?;
        Ok(sum)
    }

    /// Room that is used and left.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let Surroundings { pool, accounts, .. } = &self.inner.surroundings;
        let bytes = |chunks: usize| (chunks * CHUNK) as u64;
        Usage {
            used: accounts.used(),
            quota: accounts.quota(),
            namespace_quota: accounts.owner_quota(),
            disk_free: accounts.free(),
            read_only: accounts.read_only(),
            buffers_used: bytes(pool.chunks().saturating_sub(pool.free())),
            buffers: bytes(pool.chunks()),
        }
    }

    /// The writer threads' signs of life: they beat while they write.
    #[must_use]
    pub fn pulses(&self) -> &[Pulse] {
        &self.inner.pulses
    }

    /// How long each turn of a stream took a writer: up to 4 MiB written, files begun and ended.
    #[must_use]
    pub fn writes(&self) -> Delays {
        self.inner.writes.clone()
    }

    /// Whether new captures may start, or why not. Looks at the disk itself before it says no: what was freed a moment
    /// ago counts.
    pub fn room(&self) -> Result<(), StorageFailure> {
        let accounts = &self.inner.surroundings.accounts;
        self.room_by(|| accounts.full())
    }

    /// As [`room`](Self::room), for captures of the run's owner.
    pub fn room_in(&self, run: &RunDir) -> Result<(), StorageFailure> {
        self.room_by(|| run.account().full())
    }

    fn room_by(&self, full: impl Fn() -> Option<StorageFailure>) -> Result<(), StorageFailure> {
        if full().is_some() {
            // What cannot be asked is as it was.
            let _ = self.inner.surroundings.accounts.sample(self.inner.data.as_fd(), self.inner.data.path());
        }
        full().map_or(Ok(()), Err)
    }

    /// Begins a stream into `run`. `tell` is called by writer threads, and should return at once.
    ///
    /// # Errors
    /// When the closing blocks may be too long for a page.
    pub fn stream(
        &self,
        run: &RunDir,
        spec: StreamSpec,
        tell: impl Fn(StorageEvent) + Send + 'static,
    ) -> Result<FileStream, StorageError> {
        if spec.closing_bytes > LONGEST_CLOSING {
            return Err(StorageError::Setting("the closing blocks of a file are too long"));
        }
        let lanes = Arc::clone(&self.inner.lanes);
        let account = run.account();
        Ok(FileStream::new(&self.inner.surroundings, account, spec, |items, header, spec| {
            Lane::new(Worker::new(run, items, header, spec, Box::new(tell)), lanes)
        }))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let ready: &Sender<Ready> = &self.surroundings.ready;
        for _ in &self.writers {
            let _ = ready.send(Ready::Stop);
        }
        for writer in self.writers.drain(..) {
            let _ = writer.join();
        }
    }
}

fn records(data: &DataDir) -> Result<Vec<(String, String)>, StorageError> {
    let failed = |path: &str| {
        let path = data.path().join(path);
        move |error| StorageError::io("list", path, error)
    };
    let mut records = Vec::new();
    for namespace in list(data.as_fd(), true).map_err(failed(""))? {
        // It may be gone by now, or a link: nothing of ours.
        let Ok(directory) = subdirectory(data.as_fd(), &namespace, false) else { continue };
        for record in list(directory.as_fd(), true).map_err(failed(&namespace))? {
            records.push((namespace.clone(), record));
        }
    }
    Ok(records)
}

/// Tells the bytes of each run of a namespace.
fn count_namespace(data: &DataDir, namespace: &str, found: Found<'_>) -> Result<(), StorageError> {
    let failed = |error| StorageError::io("list", data.path().join(namespace), error);
    let directory = match subdirectory(data.as_fd(), namespace, false) {
        Ok(directory) => directory,
        // Gone, or not the agent's, who can read all that it made: nothing of its own is in there.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::ACCESS) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for record in list(directory.as_fd(), true).map_err(failed)? {
        let Ok(run) = subdirectory(directory.as_fd(), &record, false) else { continue };
        found(namespace, &record, directory_bytes(run.as_fd()).map_err(failed)?);
    }
    Ok(())
}

/// Tells the bytes of each run in the data directory.
pub(super) fn count(data: &DataDir, found: Found<'_>) -> Result<(), StorageError> {
    let namespaces =
        list(data.as_fd(), true).map_err(|error| StorageError::io("list", data.path(), error))?;
    namespaces.iter().try_for_each(|namespace| count_namespace(data, namespace, found))
}

/// Tries an `O_DIRECT` write. A file system in memory may take it, but then page by page as any other write.
fn has_direct_way(data: &DataDir, pool: &Arc<Pool>) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    const PROBE: &str = ".probe";
    if rustix::fs::fstatfs(data.as_fd()).is_ok_and(|status| u64::try_from(status.f_type) == Ok(TMPFS)) {
        return false;
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
    let Ok(file) = open_below(data.as_fd(), PROBE, flags, Mode::RUSR | Mode::WUSR) else { return false };
    let works = pool.take().is_some_and(|chunk| {
        fcntl_setfl(&file, OFlags::DIRECT).is_ok() && rustix::io::pwrite(&file, &chunk[..PAGE], 0).is_ok()
    });
    let _ = unlinkat(data.as_fd(), PROBE, rustix::fs::AtFlags::empty());
    works
}
