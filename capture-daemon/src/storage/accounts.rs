//! How much the data directory holds and how much more may be written.
//!
//! Bytes are counted when they are planned, not when they are written, so however fast the writers are, no more is
//! taken than there is room for.
//!
//! The whole directory has a quota, and so has each owner of runs. Who owns a run is told by a name that means nothing
//! here; a run of nobody counts for the whole only.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{
            AtomicBool, AtomicI64, AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use rustix::fs::StatVfsMountFlags;

use super::{StorageError, StorageFailure, pool::CHUNK};

/// Less room than this is none: it is what one buffer may add.
const LEAST: i64 = CHUNK as i64;

#[derive(Debug)]
pub(super) struct Accounts {
    quota: Option<u64>,
    owner_quota: Option<u64>,
    max_disk_percent: u8,
    total: Sums,
    /// `total.planned` may grow to here before the disk is as full as it may be. A new sample moves it.
    limit: AtomicI64,
    free: AtomicU64,
    read_only: AtomicBool,
    /// Counts removals, so that a count of the directory that ran meanwhile is not believed.
    removals: Mutex<u64>,
    owners: Mutex<Owners>,
}

/// Bytes of files.
#[derive(Debug, Default)]
struct Sums {
    /// Bytes of all files.
    used: AtomicI64,
    /// Bytes that were ever planned, and those of them that are written or given up.
    planned: AtomicI64,
    done: AtomicI64,
}

impl Sums {
    /// Whether so many bytes more, beside what is planned, stay within the quota.
    fn takes(&self, bytes: i64, quota: Option<u64>) -> bool {
        let Some(quota) = quota else { return true };
        let waiting = self.planned.load(Relaxed) - self.done.load(Relaxed);
        let quota = i64::try_from(quota).unwrap_or(i64::MAX);
        self.used.load(Relaxed) + waiting <= quota.saturating_sub(bytes)
    }

    fn used(&self) -> u64 {
        self.used.load(Relaxed).max(0) as u64
    }
}

/// Who owns what.
#[derive(Debug, Default)]
struct Owners {
    sums: HashMap<String, Arc<Sums>>,
    /// Owners of runs, by namespace and record.
    of_runs: HashMap<String, HashMap<String, String>>,
}

/// What is found in one run's directory: namespace, record, bytes.
pub(super) type Found<'a> = &'a mut dyn FnMut(&str, &str, u64);

impl Accounts {
    pub(super) fn new(quota: Option<u64>, owner_quota: Option<u64>, max_disk_percent: u8) -> Self {
        Self {
            quota,
            owner_quota,
            max_disk_percent,
            total: Sums::default(),
            limit: i64::MAX.into(),
            free: 0.into(),
            read_only: false.into(),
            removals: Mutex::new(0),
            owners: Mutex::default(),
        }
    }

    /// Asks the file system how full it is. The percentage is the one that df(1) shows.
    pub(super) fn sample(&self, directory: impl AsFd, path: &Path) -> Result<(), StorageError> {
        // Whatever completes from here on may be in the sample too: counted twice until the next one.
        let done = self.total.done.load(Acquire);
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
        self.read_only.store(status.f_flag.contains(StatVfsMountFlags::RDONLY), Relaxed);
        Ok(())
    }

    /// Why nothing more may be taken from anybody, if so.
    pub(super) fn full(&self) -> Option<StorageFailure> {
        self.refuses(LEAST)
    }

    /// Whether nothing more may be taken from anybody, or from somebody.
    pub(super) fn is_crowded(&self) -> bool {
        self.full().is_some()
            || self.owners().sums.values().any(|owner| !owner.takes(LEAST, self.owner_quota))
    }

    fn refuses(&self, bytes: i64) -> Option<StorageFailure> {
        if self.total.planned.load(Relaxed).saturating_add(bytes) > self.limit.load(Acquire) {
            return Some(StorageFailure::DiskFull);
        }
        (!self.total.takes(bytes, self.quota)).then_some(StorageFailure::Quota)
    }

    /// Replaces the counts of bytes by what `count` finds in the directory, unless files were removed meanwhile.
    pub(super) fn recount(
        &self,
        count: impl FnOnce(Found<'_>) -> Result<(), StorageError>,
    ) -> Result<(), StorageError> {
        let removals = || self.removals.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *removals();
        let used = self.total.used.load(Relaxed);
        let mut counted = 0;
        // Of each owner: what was believed, and what is found.
        let mut owned: BTreeMap<String, (i64, i64)> = self
            .owners()
            .sums
            .iter()
            .map(|(owner, sums)| (owner.clone(), (sums.used.load(Relaxed), 0)))
            .collect();
        count(&mut |namespace, record, bytes| {
            counted += bytes as i64;
            if let Some(owner) = self.owners().of(namespace, record)
                && let Some((_, found)) = owned.get_mut(owner)
            {
                *found += bytes as i64;
            }
        })?;
        let now = removals();
        if *now == before {
            // What was written meanwhile is in both, or only here: better too much than too little.
            self.total.used.fetch_add(counted - used, Relaxed);
            let owners = self.owners();
            for (owner, (before, found)) in owned {
                if let Some(sums) = owners.sums.get(&owner) {
                    sums.used.fetch_add(found - before, Relaxed);
                }
            }
        }
        Ok(())
    }

    /// The run's bytes belong to that owner from now on; the sums that they are to be added to.
    fn charge(&self, namespace: &str, record: &str, owner: &str) -> Arc<Sums> {
        let mut owners = self.owners();
        let runs = owners.of_runs.entry(namespace.to_owned()).or_default();
        runs.insert(record.to_owned(), owner.to_owned());
        Arc::clone(owners.sums.entry(owner.to_owned()).or_default())
    }

    /// The run is gone, and its owner too if it was the last one.
    pub(super) fn forget(&self, namespace: &str, record: &str) {
        let mut owners = self.owners();
        let Some(runs) = owners.of_runs.get_mut(namespace) else { return };
        let Some(owner) = runs.remove(record) else { return };
        if runs.is_empty() {
            owners.of_runs.remove(namespace);
        }
        if !owners.of_runs.values().flat_map(HashMap::values).any(|other| *other == owner) {
            owners.sums.remove(&owner);
        }
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn used(&self) -> u64 {
        self.total.used()
    }

    pub(super) const fn quota(&self) -> Option<u64> {
        self.quota
    }

    pub(super) const fn owner_quota(&self) -> Option<u64> {
        self.owner_quota
    }

    pub(super) fn free(&self) -> u64 {
        self.free.load(Relaxed)
    }

    /// Whether the file system was mounted read-only when it was last asked.
    pub(super) fn read_only(&self) -> bool {
        self.read_only.load(Relaxed)
    }
}

impl Owners {
    fn of(&self, namespace: &str, record: &str) -> Option<&String> {
        self.of_runs.get(namespace)?.get(record)
    }
}

/// One run's view: what counts for its owner counts for the whole, too.
#[derive(Debug)]
pub(super) struct Account {
    all: Arc<Accounts>,
    owner: OnceLock<Arc<Sums>>,
}

impl Account {
    /// Of a run of nobody.
    pub(super) fn new(all: &Arc<Accounts>) -> Self {
        Self { all: Arc::clone(all), owner: OnceLock::new() }
    }

    /// The whole.
    pub(super) const fn all(&self) -> &Arc<Accounts> {
        &self.all
    }

    /// The run belongs to that owner; it has so many bytes now. Once only.
    pub(super) fn charge(&self, namespace: &str, record: &str, owner: &str, bytes: u64) {
        if self.owner.get().is_none() {
            let sums = self.all.charge(namespace, record, owner);
            sums.used.fetch_add(bytes as i64, Relaxed);
            let _ = self.owner.set(sums);
        }
    }

    /// Bytes of all files of the run's owner.
    pub(super) fn owner_used(&self) -> u64 {
        self.owner.get().map_or(0, |owner| owner.used())
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
        self.all.refuses(bytes).or_else(|| {
            let takes = self.owner.get().is_none_or(|owner| owner.takes(bytes, self.all.owner_quota));
            (!takes).then_some(StorageFailure::NamespaceQuota)
        })
    }

    /// All sums that the run counts for.
    fn sums(&self) -> impl Iterator<Item = &Sums> {
        self.owner.get().map(|owner| &**owner).into_iter().chain([&self.all.total])
    }

    pub(super) fn plan(&self, bytes: u64) {
        self.sums().for_each(|sums| {
            sums.planned.fetch_add(bytes as i64, Relaxed);
        });
    }

    /// What was planned as `planned` bytes made files longer by `written`.
    pub(super) fn done(&self, planned: u64, written: u64) {
        self.sums().for_each(|sums| {
            sums.used.fetch_add(written as i64, Relaxed);
            sums.done.fetch_add(planned as i64, AcqRel);
        });
    }

    /// A file changed from `before` to `after` bytes outside of a stream.
    pub(super) fn changed(&self, before: u64, after: u64) {
        self.sums().for_each(|sums| {
            sums.used.fetch_add(after as i64 - before as i64, Relaxed);
        });
    }

    /// A file of `bytes` was removed.
    pub(super) fn removed(&self, bytes: u64) {
        let mut removals = self.all.removals.lock().unwrap_or_else(PoisonError::into_inner);
        *removals += 1;
        self.changed(bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run's view of a directory with these quotas.
    fn account(quota: Option<u64>, owner_quota: Option<u64>) -> Account {
        Account::new(&Arc::new(Accounts::new(quota, owner_quota, 100)))
    }

    #[test]
    fn what_is_planned_counts_before_it_is_written() {
        let account = account(Some(10 * CHUNK as u64), None);
        account.plan(9 * CHUNK as u64);
        assert_eq!(account.full(), None);
        account.plan(4);
        assert_eq!(account.full(), Some(StorageFailure::Quota));
        account.done(9 * CHUNK as u64 + 4, 9 * CHUNK as u64);
        assert_eq!(account.full(), None);
        account.changed(0, 4);
        assert_eq!(account.full(), Some(StorageFailure::Quota));
        account.removed(CHUNK as u64);
        assert_eq!((account.full(), account.all().used()), (None, 8 * CHUNK as u64 + 4));
    }

    #[test]
    fn an_owner_at_its_quota_leaves_room_to_others() {
        let full = Some(StorageFailure::NamespaceQuota);
        let first = account(None, Some(2 * CHUNK as u64));
        let all = first.all();
        let [second, other, nobodys] = [(); 3].map(|()| Account::new(all));
        first.charge("shop", "web-0", "shop", 0);
        second.charge("shop", "web-1", "shop", CHUNK as u64);
        other.charge("bank", "web-0", "bank", 0);
        assert_eq!(first.full(), None);
        first.plan(4);
        assert_eq!([&first, &second, &other, &nobodys].map(Account::full), [full.clone(), full, None, None]);
        assert_eq!((all.full(), all.is_crowded()), (None, true));
        assert_eq!((first.owner_used(), other.owner_used()), (CHUNK as u64, 0));
        second.removed(CHUNK as u64);
        assert_eq!((first.full(), all.is_crowded()), (None, false));
    }

    #[test]
    fn a_disk_that_is_fuller_than_allowed_takes_nothing() {
        let directory = std::fs::File::open("/").unwrap();
        let accounts = Accounts::new(None, None, 0);
        accounts.sample(&directory, Path::new("/")).unwrap();
        assert_eq!(accounts.full(), Some(StorageFailure::DiskFull));
        let account = account(None, None);
        account.all().sample(&directory, Path::new("/")).unwrap();
        assert_eq!(account.full(), None);
        account.plan(account.all().free());
        assert_eq!(account.full(), Some(StorageFailure::DiskFull));
    }

    #[test]
    fn a_recount_replaces_what_was_believed() {
        let account = account(None, Some(1 << 30));
        let accounts = account.all();
        account.charge("shop", "web-0", "shop", 1000);
        account.changed(0, 1000);
        let found = |found: Found<'_>| {
            found("shop", "web-0", 300);
            found("shop", "of-nobody", 100);
            Ok(())
        };
        accounts.recount(found).unwrap();
        assert_eq!((accounts.used(), account.owner_used()), (400, 300));
        accounts
            .recount(|tell| {
                account.removed(100);
                found(tell)
            })
            .unwrap();
        assert_eq!((accounts.used(), account.owner_used()), (300, 200));
    }

    #[test]
    fn an_owner_is_forgotten_with_its_last_run() {
        let first = account(None, Some(CHUNK as u64));
        let second = Account::new(first.all());
        first.charge("shop", "web-0", "shop", 7);
        second.charge("shop", "web-1", "shop", 0);
        first.all().forget("shop", "web-0");
        let again = Account::new(first.all());
        again.charge("shop", "web-0", "shop", 0);
        assert_eq!(again.owner_used(), 7, "the other run is still there");
        for record in ["web-0", "web-1", "web-1", "web-2"] {
            first.all().forget("shop", record);
        }
        let new = Account::new(first.all());
        new.charge("shop", "web-0", "shop", 0);
        assert_eq!(new.owner_used(), 0);
    }
}
