//! How much the data directory holds and how much more may be written.
//!
//! Bytes are counted when they are planned, not when they are written, so however fast the writers are, no more is
//! taken than there is room for.

use std::{
    os::fd::AsFd,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{
            AtomicI64, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use super::{StorageError, StorageFailure, pool::CHUNK};

/// Less room than this is none: it is what one buffer may add.
const LEAST: i64 = CHUNK as i64;

#[derive(Debug)]
pub(super) struct Accounts {
    quota: Option<u64>,
    max_disk_percent: u8,
    /// Bytes of all files.
    used: AtomicI64,
    /// Bytes that were ever planned, and those of them that are written or given up.
    planned: AtomicI64,
    done: AtomicI64,
    /// `planned` may grow to here before the disk is as full as it may be. A new sample moves it.
    limit: AtomicI64,
    free: AtomicU64,
    /// Counts removals, so that a count of the directory that ran meanwhile is not believed.
    removals: Mutex<u64>,
}

impl Accounts {
    pub(super) fn new(quota: Option<u64>, max_disk_percent: u8) -> Self {
        Self {
            quota,
            max_disk_percent,
            used: 0.into(),
            planned: 0.into(),
            done: 0.into(),
            limit: i64::MAX.into(),
            free: 0.into(),
            removals: Mutex::new(0),
        }
    }

    /// Asks the file system how full it is. The percentage is the one that df(1) shows.
    pub(super) fn sample(&self, directory: impl AsFd, path: &Path) -> Result<(), StorageError> {
        // Whatever completes from here on may be in the sample too: counted twice until the next one.
        let done = self.done.load(Acquire);
        let status =
            rustix::fs::fstatvfs(directory).map_err(|error| StorageError::io("statvfs", path, error))?;
        let used = u128::from(status.f_blocks.saturating_sub(status.f_bfree));
        let available = u128::from(status.f_bavail);
        let allowed = (used + available) * u128::from(self.max_disk_percent) / 100;
        let unit = i128::from(status.f_frsize);
        let room = (allowed as i128 - used as i128).min(available as i128).saturating_mul(unit);
        // A file system in memory may have no size at all.
        let room = if status.f_blocks == 0 { i128::MAX } else { room };
        let room = i64::try_from(room).unwrap_or(i64::MAX / 2);
        self.limit.store(done.saturating_add(room), Release);
        self.free.store((available as u64).saturating_mul(status.f_frsize), Relaxed);
        Ok(())
    }

    /// Why nothing more may be taken, if so.
    pub(super) fn full(&self) -> Option<StorageFailure> {
        self.refuses(LEAST)
    }

    /// Whether there is room for so many bytes beside what is planned.
    pub(super) fn room_for(&self, bytes: usize) -> bool {
        self.refuses(bytes as i64).is_none()
    }

    fn refuses(&self, bytes: i64) -> Option<StorageFailure> {
        let planned = self.planned.load(Relaxed);
        if planned.saturating_add(bytes) > self.limit.load(Acquire) {
            return Some(StorageFailure::DiskFull);
        }
        let waiting = planned - self.done.load(Relaxed);
        let quota = self.quota.map_or(i64::MAX, |quota| i64::try_from(quota).unwrap_or(i64::MAX));
        (self.used.load(Relaxed) + waiting > quota.saturating_sub(bytes)).then_some(StorageFailure::Quota)
    }

    pub(super) fn plan(&self, bytes: u64) {
        self.planned.fetch_add(bytes as i64, Relaxed);
    }

    /// What was planned as `planned` bytes made files longer by `written`.
    pub(super) fn done(&self, planned: u64, written: u64) {
        self.used.fetch_add(written as i64, Relaxed);
        self.done.fetch_add(planned as i64, AcqRel);
    }

    /// A file changed from `before` to `after` bytes outside of a stream.
    pub(super) fn changed(&self, before: u64, after: u64) {
        self.used.fetch_add(after as i64 - before as i64, Relaxed);
    }

    /// A file of `bytes` was removed.
    pub(super) fn removed(&self, bytes: u64) {
        let mut removals = self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        *removals += 1;
        self.used.fetch_sub(bytes as i64, Relaxed);
    }

    /// Replaces the count of bytes by what `count` finds in the directory, unless files were removed meanwhile.
    pub(super) fn recount(
        &self,
        count: impl FnOnce() -> Result<u64, StorageError>,
    ) -> Result<(), StorageError> {
        let removals = || self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *removals();
        let used = self.used.load(Relaxed);
        let counted = count()?;
        let now = removals();
        if *now == before {
            // What was written meanwhile is in both, or only here: better too much than too little.
            self.used.fetch_add(counted as i64 - used, Relaxed);
        }
        Ok(())
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Relaxed).max(0) as u64
    }

    pub(super) const fn quota(&self) -> Option<u64> {
        self.quota
    }

    pub(super) fn free(&self) -> u64 {
        self.free.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_counts_before_it_is_written() {
        let accounts = Accounts::new(Some(10 * CHUNK as u64), 100);
        accounts.plan(9 * CHUNK as u64);
        assert_eq!(accounts.full(), None);
        accounts.plan(4);
        assert_eq!(accounts.full(), Some(StorageFailure::Quota));
        accounts.done(9 * CHUNK as u64 + 4, 9 * CHUNK as u64);
        assert_eq!(accounts.full(), None);
        accounts.changed(0, 4);
        assert_eq!(accounts.full(), Some(StorageFailure::Quota));
        accounts.removed(CHUNK as u64);
        assert_eq!((accounts.full(), accounts.used()), (None, 8 * CHUNK as u64 + 4));
    }

    #[test]
    fn a_disk_that_is_fuller_than_allowed_takes_nothing() {
        let directory = std::fs::File::open("/").unwrap();
        let accounts = Accounts::new(None, 0);
        accounts.sample(&directory, Path::new("/")).unwrap();
        assert_eq!(accounts.full(), Some(StorageFailure::DiskFull));
        let accounts = Accounts::new(None, 100);
        accounts.sample(&directory, Path::new("/")).unwrap();
        assert_eq!(accounts.full(), None);
        accounts.plan(accounts.free());
        assert_eq!(accounts.full(), Some(StorageFailure::DiskFull));
    }

    #[test]
    fn a_recount_replaces_what_was_believed() {
        let accounts = Accounts::new(None, 100);
        accounts.changed(0, 1000);
        accounts.recount(|| Ok(400)).unwrap();
        assert_eq!(accounts.used(), 400);
        accounts
            .recount(|| {
                accounts.removed(100);
                Ok(400)
            })
            .unwrap();
        assert_eq!(accounts.used(), 300);
    }
}
