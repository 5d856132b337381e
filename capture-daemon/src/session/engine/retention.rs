//! What becomes of runs that are over: files and record go together when retention ends, whatever has become of pod,
//! capture, namespace or record meanwhile. `run.json` alone decides.

use std::time::{Duration, Instant, SystemTime};

use capture_api::GoDuration;
use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::Engine;
use crate::{
    session::{Session, record::Records},
    storage::{RunDir, StorageError},
};

/// How long a run is kept that was refused before it had settings.
const WITHOUT_SETTINGS: GoDuration = GoDuration::from_secs(3600);
/// How long directories are kept whose `run.json` is damaged or missing, counted from the last change of anything in
/// them: nothing tells whose they are or how long they were to be kept.
const STRAY: Duration = Duration::from_secs(24 * 3600);
/// How soon what could not be removed is tried again.
const AGAIN: Duration = Duration::from_secs(60);

/// Directories of runs that no `run.json` speaks for.
#[derive(Debug, Default)]
pub(super) struct Strays {
    dirs: Vec<RunDir>,
    looked: Option<Instant>,
}

impl Strays {
    /// One more.
    pub(super) fn add(&mut self, dir: RunDir) {
        self.dirs.push(dir);
    }

    /// That directory is a run's again.
    pub(super) fn take(&mut self, dir: &RunDir) {
        let taken = (dir.namespace(), dir.record());
        self.dirs.retain(|stray| (stray.namespace(), stray.record()) != taken);
    }

    /// Whether that is one of them.
    pub(super) fn contains(&self, namespace: &str, record: &str) -> bool {
        self.dirs.iter().any(|dir| (dir.namespace(), dir.record()) == (namespace, record))
    }

    /// Removes those that nothing has happened to for long, once a minute.
    fn expire(&mut self, records: &dyn Records) {
        if self.dirs.is_empty() || self.looked.is_some_and(|looked| looked.elapsed() < AGAIN) {
            return;
        }
        self.looked = Some(Instant::now());
        self.dirs.retain(|dir| {
            // In the future, or not to be found out: too young.
            let age = dir.changed().ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
            if age.is_none_or(|age| age < STRAY) {
                return true;
            }
            let (namespace, record) = (dir.namespace(), dir.record());
            match dir.clone().remove() {
                Ok(()) => {
                    info!(namespace, record, "removed what was left of a run whose run.json cannot be read");
                    records.remove(namespace, record);
                }
                // Something in it is somebody else's. Said once.
                Err(error) => warn!(namespace, record, %error, "left alone: not a run's directory"),
            }
            false
        });
    }
}

impl Session {
    /// Whether nothing protects files and record any longer.
    fn is_due(&self, now: Timestamp) -> bool {
        let retention = self.run.settings.as_ref().map_or(WITHOUT_SETTINGS, |settings| settings.retention);
        let kept =
            |ended| SignedDuration::try_from(retention.0).is_ok_and(|kept| now.duration_since(ended) < kept);
        self.is_over() && (self.dismissed || self.run.ended.is_some_and(|ended| !kept(ended)))
    }

    /// Takes away what retention does not protect any longer. True when nothing is left to remember: the request is
    /// gone too, and what it asked for cannot be carried out again.
    fn expire(&mut self, records: &dyn Records, now: Timestamp) -> Result<bool, StorageError> {
        if self.is_due(now) && !self.run.expired {
            let run = &self.run;
            info!(record = run.record, namespace = run.namespace, "retention is over: removing the files");
            self.dir.remove_files()?;
            records.remove(&run.namespace, &run.record);
            self.run.files.clear();
            self.run.expired = true;
            self.unsaved = true;
        }
        let counts = self.run.counts_until.is_some_and(|until| now < until);
        if !self.run.expired || !self.run.released || counts {
            return Ok(false);
        }
        self.dir.clone().remove().map(|()| true)
    }
}

impl Engine {
    /// Removes what retention does not protect any longer.
    pub(super) fn expire(&mut self) {
        let (now, looked) = (Timestamp::now(), Instant::now());
        let Self { sessions, records, strays, by_key, .. } = self;
        strays.expire(&**records);
        let before = sessions.len();
        sessions.retain(|_, session| {
            if session.removal_failed.is_some_and(|failed| looked.duration_since(failed) < AGAIN) {
                return true;
            }
            let told = session.removal_failed.take().is_some();
            match session.expire(&**records, now) {
                Ok(forgotten) => !forgotten,
                Err(error) => {
                    session.removal_failed = Some(looked);
                    if !told {
                        let run = &session.run;
                        warn!(record = run.record, namespace = run.namespace, %error, "cannot remove an expired capture; trying on");
                    }
                    true
                }
            }
        });
        if sessions.len() < before {
            by_key.retain(|_, ids| {
                ids.retain(|id| sessions.contains_key(id));
                !ids.is_empty()
            });
        }
    }
}
