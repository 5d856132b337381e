//! The manifest directory: Pod and PacketCapture manifests in files, for hosts without Kubernetes. A thread watches
//! it, keeps what is in force, and delivers what changes.

pub mod directory;
pub mod document;
pub mod store;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use capture_api::{Caps, Defaults};
use jiff::Timestamp;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tracing::{info, warn};

use self::directory::{Directory, Found};
use self::store::Store;
use super::changes::Changes;
use super::desired::{Accepted, NamespaceRules, desired};
use crate::pods::{Place, PodClaim, PodWatch};
use crate::session::wanted::RequestEvent;
use crate::watched::WatchedDirs;

/// How often everything is looked at although nothing was heard.
const RESCAN: Duration = Duration::from_secs(1);
/// The same while a file settles or is missing.
const SOON: Duration = Duration::from_millis(100);

/// What the source needs besides the directory.
#[derive(Clone, Debug)]
pub struct Options {
    /// For what a request does not name.
    pub defaults: Defaults,
    /// For what it asks too much of.
    pub caps: Caps,
    /// When the requests of earlier runs were accepted, so that a restart does not lengthen their windows.
    pub accepted: Accepted,
    /// The most manifest files that are looked at.
    pub max_files: usize,
    /// Where it is told which addresses pods have.
    pub watch: PodWatch,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            defaults: Defaults::default(),
            caps: Caps::default(),
            accepted: Accepted::default(),
            max_files: 4096,
            watch: PodWatch::default(),
        }
    }
}

/// Why the directory cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum ManifestsError {
    /// The directory cannot be read.
    #[error("the manifest directory {path} cannot be read: {source}; give --pods an existing directory")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{call} for the manifest directory {path}: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Stops watching when dropped.
#[derive(Debug)]
pub struct Handle {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let written = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take().filter(|_| written.is_ok()) {
            // A panic there was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// Watches `path` and delivers what is wanted: first everything that is there, then [`RequestEvent::Listed`], then
/// each change. `deliver` runs on the source's thread, which ends when the handle is dropped.
///
/// # Errors
/// The directory is not there or cannot be watched.
pub fn start(
    path: &Path,
    options: &Options,
    deliver: impl FnMut(RequestEvent) + Send + 'static,
) -> Result<Handle, ManifestsError> {
    let system = |call| {
        let path = path.to_owned();
        move |source: io::Error| ManifestsError::System { call, path, source }
    };
    let unreadable = |source| ManifestsError::Directory { path: path.to_owned(), source };
    std::fs::read_dir(path).map_err(unreadable)?;
    let watch = WatchedDirs::new([path.to_owned()]).map_err(system("inotify_init1"))?;
    let stop = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| system("eventfd")(error.into()))?;
    let stop = Arc::new(stop);
    let source = Source {
        path: path.to_owned(),
        watch,
        stop: Arc::clone(&stop),
        directory: Directory::new(path, options.max_files),
        store: Store::default(),
        changes: Changes::default(),
        away: false,
        options: options.clone(),
    };
    let thread = std::thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || source.run(deliver))
        .map_err(system("thread"))?;
    Ok(Handle { stop, thread: Some(thread) })
}

struct Source {
    path: PathBuf,
    watch: WatchedDirs,
    stop: Arc<OwnedFd>,
    directory: Directory,
    store: Store,
    changes: Changes,
    /// The directory could not be read the last time.
    away: bool,
    options: Options,
}

impl Source {
    fn run(mut self, mut deliver: impl FnMut(RequestEvent)) {
        // The watch comes before the first look, so that nothing falls between them.
        self.watch.renew();
        self.look(&BTreeSet::new(), true);
        self.changes().into_iter().for_each(&mut deliver);
        deliver(RequestEvent::Listed);
        let mut last = Instant::now();
        loop {
            let pause = if self.directory.waits() { SOON } else { RESCAN.saturating_sub(last.elapsed()) };
            let closed = match self.wait(pause) {
                Woken::Stop => return,
                Woken::Events(closed) => closed,
                Woken::Time => {
                    self.watch.renew();
                    BTreeSet::new()
                }
            };
            last = Instant::now();
            if self.look(&closed, false) {
                self.changes().into_iter().for_each(&mut deliver);
            }
        }
    }

    fn wait(&mut self, pause: Duration) -> Woken {
        let timeout = Timespec::try_from(pause).ok();
        let mut descriptors = [
            PollFd::new(&self.stop, PollFlags::IN),
            PollFd::from_borrowed_fd(self.watch.as_fd(), PollFlags::IN),
        ];
        // Interrupted or not, everything is looked at again.
        let ready = poll(&mut descriptors, timeout.as_ref()).unwrap_or(0);
        if !descriptors[0].revents().is_empty() {
            return Woken::Stop;
        }
        if ready == 0 {
            return Woken::Time;
        }
        Woken::Events(self.watch.written().into_iter().map(|(_, name)| name).collect())
    }

    /// Looks at the directory and takes over what is new. True if anything may have changed.
    fn look(&mut self, closed: &BTreeSet<OsString>, first: bool) -> bool {
        let found = match self.directory.scan(closed, first, Instant::now()) {
            Ok(found) => found,
            Err(error) => {
                if !self.away {
                    warn!(directory = ?self.path, %error, "the manifest directory cannot be read; what it said stays in force");
                }
                self.away = true;
                return false;
            }
        };
        if self.away {
            info!(directory = ?self.path, "the manifest directory can be read again");
            self.away = false;
        }
        let mut changed = false;
        for found in found {
            changed |= self.take(found);
        }
        changed
    }

    fn take(&mut self, found: Found) -> bool {
        match found {
            Found::Text(file, format, text) => match document::parse(&text, format) {
                // Somebody is about to write it: an object is ended by removing the file.
                Ok(manifest) if manifest.is_empty() && self.store.knows(&file) => {
                    self.keep(&file, "it is empty; remove it to end what it asked for")
                }
                // What is wrong may well be an object that was good before, half edited.
                Ok(manifest) if !manifest.complaints.is_empty() && self.store.loses(&file, &manifest) => {
                    self.keep(&file, &manifest.complaints.join("; "))
                }
                Ok(manifest) => {
                    for complaint in manifest.complaints.iter().chain(&manifest.ignored) {
                        warn!(?file, "{complaint}");
                    }
                    // Its records say so, too; but it may select no pod.
                    for capture in &manifest.captures {
                        if let Err(refusal) = &capture.spec {
                            warn!(?file, namespace = capture.namespace, capture = capture.name, "{refusal}");
                        }
                    }
                    self.store.take(&file, manifest);
                    true
                }
                Err(why) => self.keep(&file, &why),
            },
            Found::Unreadable(file, why) => self.keep(&file, &why),
            Found::Gone(file) => self.store.remove(&file),
            Found::TooMany(over) => {
                let most = self.options.max_files;
                warn!(over, most, "there are more manifests than are looked at; remove some");
                false
            }
        }
    }

    fn keep(&mut self, file: &OsString, why: &str) -> bool {
        let kept = self.store.keep(file, why);
        if kept {
            warn!(
                ?file,
                why, "the manifest's last change is not taken over; what it said before stays in force"
            );
        } else {
            warn!(?file, why, "the manifest cannot be read");
        }
        kept
    }

    /// What is to be told of what is in force now.
    fn changes(&mut self) -> Vec<RequestEvent> {
        let (pods, captures, conflicts) = self.store.objects();
        for conflict in conflicts {
            warn!("{conflict}");
        }
        let Options { defaults, caps, accepted, watch, .. } = &mut self.options;
        watch.told(pods.iter().filter_map(|object| match &object.pod.place {
            Some(Place::Pod(place)) => Some(PodClaim {
                uid: place.uid.clone(),
                sandbox: String::new(),
                addresses: place.addresses.clone(),
            }),
            _ => None,
        }));
        watch.set_live(true);
        let rules = NamespaceRules { defaults: defaults.clone(), caps: caps.clone(), label_requests: true };
        let wanted = desired(&pods, &captures, accepted, Timestamp::now(), &rules);
        self.changes.update(wanted)
    }
}

enum Woken {
    Stop,
    /// These were closed by a writer or renamed into place; others may have changed too.
    Events(BTreeSet<OsString>),
    Time,
}

#[cfg(test)]
mod tests;
