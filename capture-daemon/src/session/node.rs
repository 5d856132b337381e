//! What all sessions of a node share, and the work that they have done for them by other threads.

use std::{
    net::IpAddr,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant},
};

use capture_api::{Refusal, RequestKind, Settings, reasons};
use capture_filter::{Compiler, Filter, FilterError};
use tracing::debug;

use super::{
    RingBudget, SessionId, TapInfo, engine::Event, progress::Progress, provisional::Provisional, run::Run,
    sink::CaptureSink, tap_settings::tap_settings, wanted::Wanted, workers::Workers,
};
use crate::{
    datapath::{AttachMode, Clock, Consumer, Counters, Counting, DatapathError, Loader, Ring, Tap},
    pcapng::{FileHeader, Interface, Statistics},
    pods::{self, Finder, HostInterface, LinkNews},
    storage::{Rotation, RunDir, Storage, StorageError, StreamSpec},
    telemetry::Telemetry,
};

/// So many of the taps that are begun within [`BULK`] are attached by tcx; those beyond become sockets.
const MOST_TCX: usize = 4;
/// With 25 ms each, what holds up the node's links takes a tenth of this at most.
const BULK: Duration = Duration::from_secs(1);

/// What sessions may do on this node.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a session waits before it looks again for what is not there.
    pub retry: Duration,
    /// Whether taps may be attached as sockets when many are wanted at once.
    pub sockets_in_bulk: bool,
}

/// The means of a node.
pub struct Node {
    /// The node's name, as records show it.
    pub name: String,
    /// How far sessions may go.
    pub limits: Limits,
    /// Files.
    pub storage: Storage,
    /// Memory for rings.
    pub rings: RingBudget,
    /// Finds pods' interfaces.
    pub finder: Finder,
    /// What sessions have not heard yet of links.
    pub link_news: LinkNews,
    /// Makes taps.
    pub loader: Arc<Loader>,
    /// Reads rings.
    pub consumer: Consumer,
    /// Keeps the taps' time.
    pub clock: Arc<Clock>,
    /// Makes filters.
    pub compiler: Compiler,
    /// Carries out what takes time.
    pub workers: Workers,
    /// Where answers go.
    pub answers: Sender<Event>,
    /// Where numbers and health are told.
    pub telemetry: Telemetry,
    /// Taps for pods that have no interface yet; none are made unless this is set.
    pub provisional: Provisional,
    /// How many taps were begun lately, and since when.
    begun: (usize, Instant),
    next_tap: u64,
    left: Vec<Tap>,
}

/// What a worker answers to a session.
pub enum Answer {
    /// A tap is loaded, or why not; the ring is to be given back when nobody wants it any more.
    Loaded { ring: u32, tap: Result<Tap, LoadFailure> },
    /// The tap is attached, or why not. The tap comes back either way.
    Attached { tap: Tap, result: Result<(), AttachFailure> },
    /// The new tap is in the old one's place, or why not. Both come back.
    TookOver { old: Tap, new: Tap, result: Result<(), DatapathError> },
    /// The tap is off its interface.
    Detached { tap: Tap },
}

/// Why there is no tap.
pub enum LoadFailure {
    /// The filter is to blame: the user can mend it.
    Filter(Refusal),
    /// The filter could not be compiled this time, for lack of time, memory or the like: it is to be tried again.
    Compiler(String),
    /// The agent or the kernel is to blame.
    Datapath(String),
}

impl From<FilterError> for LoadFailure {
    fn from(error: FilterError) -> Self {
        if error.is_refusal() {
            Self::Filter(Refusal::new(reasons::INVALID_FILTER, error.to_string()))
        } else {
            Self::Compiler(error.to_string())
        }
    }
}

/// Why a tap is not attached.
pub enum AttachFailure {
    /// The interface went away meanwhile.
    InterfaceGone,
    /// The kernel refused.
    Datapath(DatapathError),
}

impl Node {
    /// Puts the node's means together.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own, named at the one call")]
    pub fn new(
        name: String,
        limits: Limits,
        storage: Storage,
        rings: RingBudget,
        finder: Finder,
        loader: Loader,
        consumer: Consumer,
        clock: Clock,
        compiler: Compiler,
        workers: Workers,
        answers: Sender<Event>,
    ) -> Self {
        let provisional = Provisional::new(workers.clone(), 0);
        Self {
            name,
            limits,
            storage,
            rings,
            finder,
            link_news: LinkNews::default(),
            loader: Arc::new(loader),
            consumer,
            clock: Arc::new(clock),
            compiler,
            workers,
            answers,
            telemetry: Telemetry::default(),
            provisional,
            begun: (0, Instant::now()),
            next_tap: 0,
            left: Vec::new(),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a tap is made from, each by its name")]
    /// Has the filter compiled and a tap loaded; it is halted unless `running`, which a tap is that takes over.
    pub(super) fn load(
        &self,
        session: SessionId,
        ticket: u64,
        run: &Run,
        settings: &Settings,
        ring: u32,
        mode: AttachMode,
        running: bool,
    ) {
        let (loader, answer) = (Arc::clone(&self.loader), self.answer(session, ticket));
        let since = Instant::now();
        self.load_tap(&run.namespace, settings, ring, mode, running, move |tap| {
            if tap.is_ok() {
                // The benchmark reads this. It includes the filter's way through the compiler.
                debug!(session, took_us = since.elapsed().as_micros() as u64, "tap loaded");
            }
            answer.send(Answer::Loaded { ring, tap });
            // For the next session. What is loaded ahead is in no hurry, and its rings are of other sizes.
            loader.prepare(ring);
        });
    }

    /// Has a tap loaded; `done` is called by a worker. Namespaces take turns in having filters compiled.
    pub(super) fn load_tap(
        &self,
        namespace: &str,
        settings: &Settings,
        ring: u32,
        mode: AttachMode,
        running: bool,
        done: impl FnOnce(Result<Tap, LoadFailure>) + Send + 'static,
    ) {
        let (compiler, loader, clock) = (&self.compiler, Arc::clone(&self.loader), Arc::clone(&self.clock));
        let fixed = tap_settings(settings, ring);
        let workers = self.workers.clone();
        let load = move |filter: Result<Option<Arc<Filter>>, FilterError>| {
            let tap = filter.map_err(LoadFailure::from).and_then(|filter| {
                let tap = loader
                    .load(filter.as_deref(), &fixed, ring, mode)
                    .map_err(|error| LoadFailure::Datapath(error.to_string()))?;
                clock.register(tap.control());
                tap.control().set_halted(!running);
                Ok(tap)
            });
            done(tap);
        };
        if settings.filter.is_empty() {
            return workers.run(move || load(Ok(None)));
        }
        let meters = self.telemetry.meters().clone();
        compiler.submit(namespace, &settings.filter, move |filter| {
            meters.filter(&filter);
            workers.run(move || load(filter.map(Some)));
        });
    }

    /// Has the tap attached. It is held until it is certain that the interface is still the pod's, and runs then unless
    /// it is halted meanwhile.
    pub(super) fn attach(&self, session: SessionId, ticket: u64, mut tap: Tap, interface: HostInterface) {
        tap.control().set_held(true);
        tap.control().set_halted(false);
        let (links, answer) = (self.finder.links().clone(), self.answer(session, ticket));
        // Many may be wanted at once by tcx only where nothing else is allowed.
        let patient = tap.mode() == AttachMode::Tcx && !self.limits.sockets_in_bulk;
        let attach = move || {
            let attached = tap.attach(interface.link.index);
            // Another link may have got the index since it was looked up.
            let result = match (attached, pods::confirm(&links, &interface)) {
                (Ok(()), Ok(())) => {
                    tap.control().set_held(false);
                    Ok(())
                }
                (_, Err(_)) => Err(AttachFailure::InterfaceGone),
                (Err(error), Ok(())) => Err(AttachFailure::Datapath(error)),
            };
            if result.is_err() {
                tap.detach();
            }
            answer.send(Answer::Attached { tap, result });
        };
        if patient {
            self.workers.run_patiently(attach);
        } else {
            self.workers.run(attach);
        }
    }

    /// Has `new` put into the place of `old`.
    pub(super) fn take_over(&self, session: SessionId, ticket: u64, mut old: Tap, mut new: Tap) {
        let answer = self.answer(session, ticket);
        self.workers.run(move || {
            let result = new.take_over(&mut old);
            answer.send(Answer::TookOver { old, new, result });
        });
    }

    /// Has the tap taken off its interface.
    pub(super) fn detach(&self, session: SessionId, ticket: u64, mut tap: Tap) {
        let answer = self.answer(session, ticket);
        self.workers.run(move || {
            tap.detach();
            answer.send(Answer::Detached { tap });
        });
    }

    fn answer(&self, session: SessionId, ticket: u64) -> Reply {
        Reply { session, ticket, answers: self.answers.clone() }
    }

    /// Lets the consumer read the tap's ring into new files of the run.
    #[expect(clippy::too_many_arguments, reason = "the parts of one session, which holds them apart")]
    pub(super) fn consume(
        &self,
        session: SessionId,
        run: &Run,
        dir: &RunDir,
        wanted: &Wanted,
        progress: &Arc<Progress>,
        (ring, counting): (Ring, Counting),
        info: &TapInfo,
    ) -> Result<(), StorageError> {
        let rotation = info.settings.rotation;
        let spec = StreamSpec {
            record: run.record.clone(),
            first_sequence: run.next_sequence,
            header: self.header(run, wanted, info),
            rotation: Rotation {
                file_bytes: rotation.file_bytes,
                files: rotation.files,
                interval: rotation.interval.map(|interval| interval.0),
            },
            closing_bytes: Statistics::MAX_LENGTH,
        };
        let answers = self.answers.clone();
        let stream = self.storage.stream(dir, spec, move |news| {
            // The engine outlives the writers.
            let _ = answers.send(Event::Storage { session, news });
        })?;
        let answers = self.answers.clone();
        let counters = move || counting.read().ok();
        let sink = CaptureSink::new(stream, Arc::clone(progress), counters, move |limit| {
            let _ = answers.send(Event::Limit { session, limit });
        });
        self.consumer.add(info.id, ring, Box::new(sink));
        Ok(())
    }

    /// A number for the next tap.
    pub(super) const fn tap_number(&mut self) -> u64 {
        self.next_tap += 1;
        self.next_tap
    }

    /// How the next tap is to be attached. By tcx each one holds up all changes of the node's links for two grace
    /// periods, 25 ms; when many pods want to be captured at once the others are attached as sockets, which takes no
    /// time, and stay so.
    pub(super) fn mode_for_new(&mut self, now: Instant) -> AttachMode {
        if now.duration_since(self.begun.1) >= BULK {
            self.begun = (0, now);
        }
        self.begun.0 += 1;
        if self.limits.sockets_in_bulk && self.begun.0 > MOST_TCX {
            AttachMode::Socket
        } else {
            self.loader.mode()
        }
    }

    fn header(&self, run: &Run, wanted: &Wanted, info: &TapInfo) -> Vec<u8> {
        let system = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let os = format!("{} {}", text(system.sysname()), text(system.release()));
        let request = match run.request {
            RequestKind::Label => "label on the pod".to_owned(),
            RequestKind::PacketCapture => {
                format!("PacketCapture {}/{}", run.namespace, run.capture.as_deref().unwrap_or(""))
            }
        };
        let link = &info.interface.link;
        let mut addresses = wanted.pod.addresses.clone();
        addresses.extend(pods::pod_addresses(self.finder.links(), &info.interface));
        addresses.sort_unstable();
        addresses.dedup();
        let pod = format!("{}.{}", wanted.pod.name, wanted.pod.namespace);
        let names: Vec<(IpAddr, Vec<String>)> =
            addresses.into_iter().map(|address| (address, vec![pod.clone()])).collect();
        let mut comments = vec![
            format!("pod UID: {}", wanted.pod.uid),
            format!("node: {}", self.name),
            format!("host interface: {}", link.name),
        ];
        comments.extend(wanted.pod.labels.iter().map(|(key, value)| format!("label {key}: {value}")));
        let inside = if info.interface.inside.is_empty() { "pod" } else { &info.interface.inside };
        FileHeader {
            hardware: text(system.machine()),
            os: os.clone(),
            application: concat!("podtap ", env!("CARGO_PKG_VERSION")).to_owned(),
            comments: vec![
                format!("node: {}", self.name),
                format!("capture: {}", run.record),
                format!("requested by: {request}"),
            ],
            interface: Interface {
                name: format!("{inside} ({})", link.name),
                description: format!("{}/{}", wanted.pod.namespace, wanted.pod.name),
                filter: (!info.settings.filter.is_empty()).then(|| info.settings.filter.clone()),
                snap_length: info.settings.snap_length,
                os,
                hardware: String::new(),
                comments,
            },
            names,
        }
        .to_bytes()
    }

    /// Keeps a halted tap until the process ends: the kernel takes it off then, which takes 25 ms here.
    pub(super) fn leave_attached(&mut self, tap: Tap) {
        self.left.push(tap);
    }

    /// Ends a tap's part: what is left in its ring goes into its files, which are closed.
    pub(super) fn finish(&mut self, info: &TapInfo, last: Counters) {
        self.consumer.remove(info.id, last);
        self.rings.release(info.ring);
    }
}

/// Whom a worker answers.
#[derive(Clone)]
struct Reply {
    session: SessionId,
    ticket: u64,
    answers: Sender<Event>,
}

impl Reply {
    fn send(self, answer: Answer) {
        // Without an engine there is nobody to tell, and the tap is dropped, which detaches it.
        let _ = self.answers.send(Event::Answer {
            session: self.session,
            ticket: self.ticket,
            answer: Box::new(answer),
        });
    }
}
