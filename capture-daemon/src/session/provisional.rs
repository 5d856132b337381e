//! Taps on interfaces of which nobody knows yet whose they are.
//!
//! A CNI says which interface is whose only when it is done, and by then the pod may have sent its first packets. So while
//! a wanted pod has no interface, taps are loaded ahead, and each new pair gets one in the moment of its link event, in the
//! thread that hears it, without a question to the kernel. Its packets wait in the tap's ring, which nobody reads. When
//! the pair proves to be the pod's, the tap becomes its session's as it is: no gap, no packet twice. Otherwise it is
//! dropped unread.
//!
//! Sessions that want the same of the kernel share taps until it is known who gets which, so ten pods that are made at
//! once need ten taps and not a hundred.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use capture_api::{Refusal, Settings};
use tracing::{debug, warn};

use super::{node::LoadFailure, tap_settings::needs_another_tap, workers::Workers};
use crate::{
    datapath::Tap,
    pods::{HostInterface, Link, LinkEvent, Peer},
    telemetry::snapshot::ProvisionalTaps,
};

/// A tap waits for so long at most for its interface to be somebody's.
const PATIENCE: Duration = Duration::from_secs(60);
/// A pair older than this is not worth a new tap: its pod has long spoken. One as old may lose its tap to a newer one.
const YOUNG: Duration = Duration::from_secs(5);
/// Once somebody got a tap of a pair, other sessions of the pod get theirs within this.
const PROVEN: Duration = Duration::from_secs(1);
/// A tap that is on its interface within this was there in time: a CNI has much to do before it brings a link up.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Taps kept ready for one kind, however many pods wait.
const MOST_SPARES: usize = 4;
/// So many bytes a ring has when few pods wait, and there is room.
const LARGE_RING: u32 = 4 << 20;
/// And otherwise.
const SMALL_RING: u32 = 1 << 20;
/// New pairs that are remembered.
const MOST_PAIRS: usize = 256;

/// Taps that are loaded ahead, or wait on new interfaces. Clones share them.
#[derive(Clone)]
pub struct Provisional {
    hunt: Arc<Mutex<Hunt>>,
    workers: Workers,
    /// The most bytes of rings.
    budget: u64,
}

/// Which taps are needed by pods that wait: one kind is what one kernel program does.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Demand {
    /// Namespace of the first that asked; its filter is compiled on that namespace's turn.
    pub(super) namespace: String,
    /// What the taps do.
    pub(super) settings: Settings,
    /// Pods that wait.
    pub(super) pods: usize,
    /// The most sessions of one pod.
    pub(super) copies: usize,
}

/// A tap to be loaded for [`Provisional::loaded`].
pub(super) struct Order {
    pub(super) kind: u64,
    pub(super) namespace: String,
    pub(super) settings: Settings,
    /// The most bytes of its ring.
    pub(super) ring: u32,
}

/// A tap that was on the interface before anybody knew whose that is.
pub(super) struct Early {
    pub(super) tap: Tap,
    /// Bytes of its ring.
    pub(super) ring: u32,
    /// When it was attached.
    pub(super) since: Instant,
    /// It came so long after the interface that packets may have passed before.
    pub(super) late: bool,
}

#[derive(Default)]
struct Hunt {
    kinds: Vec<Kind>,
    /// Pairs that came lately, oldest first.
    pairs: Vec<Pair>,
    /// Where each known pair leads.
    known: HashMap<u32, Peer>,
    /// Sizes of rings that are not used any more.
    freed: Vec<u32>,
    last_kind: u64,
}

struct Kind {
    id: u64,
    demand: Demand,
    /// Bytes of the rings of taps that are being loaded.
    loading: Vec<u32>,
    spares: Vec<Spare>,
    /// It cannot be loaded; not tried again before this.
    failed_until: Option<Instant>,
}

struct Spare {
    tap: Tap,
    ring: u32,
}

/// A pair of interfaces that is nobody's yet.
struct Pair {
    index: u32,
    peer: Peer,
    seen: Instant,
    /// Whose it is has been found out, at this time.
    proven: Option<Instant>,
    /// By kind.
    taps: Vec<(u64, Spare, Instant)>,
}

impl Provisional {
    /// With rings of so many bytes in all; of none when provisional taps are not wanted.
    #[must_use]
    pub fn new(workers: Workers, budget: u64) -> Self {
        Self { hunt: Arc::default(), workers, budget }
    }

    /// These links have been there before anybody listened.
    pub fn knows(&self, links: &[Link]) {
        let mut hunt = self.lock();
        for link in links {
            if let Some(peer) = link.peer {
                hunt.known.entry(link.index).or_insert(peer);
            }
        }
    }

    /// News of a link, at once: a new pair gets its taps here.
    pub fn hears(&self, event: &LinkEvent) {
        if self.budget == 0 {
            return;
        }
        let mut hunt = self.lock();
        let dropped = match event {
            LinkEvent::Removed { index } => {
                hunt.known.remove(index);
                hunt.forget(*index)
            }
            LinkEvent::Changed(link) => match link.peer.filter(|_| link.is_pair()) {
                Some(peer) if hunt.known.insert(link.index, peer) != Some(peer) => {
                    let dropped = hunt.forget(link.index);
                    hunt.meet(link.index, peer);
                    dropped
                }
                _ => Vec::new(),
            },
        };
        drop(hunt);
        self.discard(dropped);
    }

    /// From now on taps of these kinds are needed, and no others.
    pub(super) fn want(&self, demands: Vec<Demand>) {
        if self.budget == 0 {
            return;
        }
        let mut hunt = self.lock();
        if demands.is_empty() && hunt.kinds.is_empty() && hunt.pairs.is_empty() {
            return;
        }
        let dropped = hunt.want(demands);
        drop(hunt);
        self.discard(dropped);
    }

    /// Taps to be loaded now. Each is to be answered by [`Self::loaded`].
    pub(super) fn orders(&self) -> Vec<Order> {
        if self.budget == 0 {
            return Vec::new();
        }
        let mut hunt = self.lock();
        let (orders, dropped) = hunt.orders(self.budget);
        drop(hunt);
        self.discard(dropped);
        orders
    }

    /// A tap that was ordered is loaded and running, or why not. A failure that users are to blame for comes back, with
    /// the settings that it concerns.
    pub(super) fn loaded(
        &self,
        kind: u64,
        ring: u32,
        tap: Result<Tap, LoadFailure>,
    ) -> Option<(Settings, Refusal)> {
        let mut hunt = self.lock();
        let spare = match tap {
            Ok(tap) => Spare { tap, ring },
            Err(failure) => {
                hunt.freed.push(ring);
                let kind = hunt.kinds.iter_mut().find(|one| one.id == kind)?;
                kind.loading.pop();
                let pause = if matches!(failure, LoadFailure::Compiler(_)) { YOUNG } else { PATIENCE };
                kind.failed_until = Some(Instant::now() + pause);
                return match failure {
                    LoadFailure::Filter(refusal) => Some((kind.demand.settings.clone(), refusal)),
                    LoadFailure::Compiler(error) | LoadFailure::Datapath(error) => {
                        warn!(error, "cannot load a tap ahead: first packets of new pods may be missed");
                        None
                    }
                };
            }
        };
        if let Some(unwanted) = hunt.stock(kind, spare) {
            drop(hunt);
            self.discard(vec![unwanted]);
        }
        None
    }

    /// There is no memory for a tap that was ordered.
    pub(super) fn refused(&self, kind: u64) {
        let mut hunt = self.lock();
        if let Some(kind) = hunt.kinds.iter_mut().find(|one| one.id == kind) {
            kind.loading.pop();
            kind.failed_until = Some(Instant::now() + YOUNG);
        }
    }

    /// Drops the taps that are on no interface, and makes no others for a while.
    pub(super) fn give_up(&self) {
        let mut hunt = self.lock();
        let mut dropped = Vec::new();
        for kind in &mut hunt.kinds {
            kind.failed_until = Some(Instant::now() + YOUNG);
            dropped.append(&mut kind.spares);
        }
        drop(hunt);
        self.discard(dropped);
    }

    /// A tap that has been on the interface since it came, if there is one with these settings.
    pub(super) fn take(&self, settings: &Settings, interface: &HostInterface) -> Option<Early> {
        let mut hunt = self.lock();
        let (found, dropped) = hunt.take(settings, interface);
        drop(hunt);
        self.discard(dropped);
        found
    }

    /// Sizes of the rings that are not used any more, since the last call.
    pub(super) fn freed(&self) -> Vec<u32> {
        std::mem::take(&mut self.lock().freed)
    }

    /// How many taps there are now, and what they take.
    pub(super) fn usage(&self) -> ProvisionalTaps {
        let hunt = self.lock();
        let ready: usize = hunt.kinds.iter().map(|kind| kind.spares.len()).sum();
        let attached: usize = hunt.pairs.iter().map(|pair| pair.taps.len()).sum();
        ProvisionalTaps {
            ready: ready.try_into().unwrap_or(u32::MAX),
            attached: attached.try_into().unwrap_or(u32::MAX),
            rings_used: hunt.used(),
            rings_limit: self.budget,
        }
    }

    /// Drops taps where nobody waits for it: closing a socket takes a while.
    fn discard(&self, taps: Vec<Spare>) {
        if taps.is_empty() {
            return;
        }
        self.lock().freed.extend(taps.iter().map(|spare| spare.ring));
        self.workers.run(move || drop(taps));
    }

    fn lock(&self) -> MutexGuard<'_, Hunt> {
        // A panic elsewhere leaves at worst a pair without its taps.
        self.hunt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hunt {
    /// A new pair: taps of all kinds are put on it.
    fn meet(&mut self, index: u32, peer: Peer) {
        if self.pairs.len() >= MOST_PAIRS {
            // Those without taps go unnoticed; one with taps is seldom that old.
            match self.pairs.iter().position(|pair| pair.taps.is_empty()) {
                Some(at) => drop(self.pairs.remove(at)),
                None => return,
            }
        }
        let now = Instant::now();
        let mut pair = Pair { index, peer, seen: now, proven: None, taps: Vec::new() };
        for kind in &mut self.kinds {
            let ready = kind.spares.len().saturating_sub(kind.demand.copies);
            for spare in kind.spares.split_off(ready) {
                pair.attach(kind.id, spare, &mut self.freed);
            }
        }
        self.pairs.push(pair);
    }

    /// The link is gone: what came over it is nobody's.
    fn forget(&mut self, index: u32) -> Vec<Spare> {
        let gone = self.pairs.extract_if(.., |pair| pair.index == index);
        gone.flat_map(|pair| pair.taps).map(|(_, spare, _)| spare).collect()
    }

    fn want(&mut self, demands: Vec<Demand>) -> Vec<Spare> {
        let mut dropped = Vec::new();
        let mut before = std::mem::take(&mut self.kinds);
        for demand in demands {
            let known =
                before.iter().position(|kind| !needs_another_tap(&kind.demand.settings, &demand.settings));
            let kind = match known {
                Some(at) => Kind { demand, ..before.swap_remove(at) },
                None => {
                    self.last_kind += 1;
                    let id = self.last_kind;
                    Kind { id, demand, loading: Vec::new(), spares: Vec::new(), failed_until: None }
                }
            };
            self.kinds.push(kind);
        }
        dropped.extend(before.into_iter().flat_map(|kind| kind.spares));
        let now = Instant::now();
        let kinds: Vec<u64> = self.kinds.iter().map(|kind| kind.id).collect();
        for pair in &mut self.pairs {
            let over = now.duration_since(pair.seen) > PATIENCE
                || pair.proven.is_some_and(|proven| now.duration_since(proven) > PROVEN);
            let unwanted = pair.taps.extract_if(.., |(kind, ..)| over || !kinds.contains(kind));
            dropped.extend(unwanted.map(|(_, spare, _)| spare));
        }
        self.pairs.retain(|pair| !pair.taps.is_empty() || now.duration_since(pair.seen) <= YOUNG);
        dropped
    }

    /// Bytes of all rings.
    fn used(&self) -> u64 {
        let spares = self.kinds.iter().flat_map(|kind| &kind.spares);
        let waiting = self.pairs.iter().flat_map(|pair| &pair.taps).map(|(_, spare, _)| spare);
        spares.chain(waiting).map(|spare| u64::from(spare.ring)).sum()
    }

    /// What is missing, as far as the budget goes. Pairs that nobody has claimed for long give theirs up.
    fn orders(&mut self, budget: u64) -> (Vec<Order>, Vec<Spare>) {
        let now = Instant::now();
        let waiting: usize = self.kinds.iter().map(|kind| kind.demand.pods).sum();
        // Large ones while there is plenty of room: when one or two pods wait, and for the first half.
        let few = self.kinds.len() == 1 && waiting <= 2;
        let loading: u64 = self.kinds.iter().flat_map(|kind| &kind.loading).copied().map(u64::from).sum();
        let mut used = self.used() + loading;
        let mut orders = Vec::new();
        let mut dropped = Vec::new();
        for kind in &mut self.kinds {
            if kind.failed_until.is_some_and(|until| now < until) {
                continue;
            }
            let without = self.pairs.iter().filter(|pair| pair.lacks(kind, now)).count();
            let ahead = (kind.demand.copies * kind.demand.pods).min(MOST_SPARES).max(kind.demand.copies);
            let wanted = ahead + without * kind.demand.copies;
            while kind.spares.len() + kind.loading.len() < wanted {
                let large = few && used + u64::from(LARGE_RING) <= budget / 2;
                let ring = if large { LARGE_RING } else { SMALL_RING };
                if used + u64::from(ring) > budget {
                    let old = |pair: &Pair| {
                        !pair.taps.is_empty()
                            && now.duration_since(pair.seen) > YOUNG
                            && pair.proven.is_none()
                    };
                    let Some(at) = self.pairs.iter().position(old) else { break };
                    let given_up = self.pairs.remove(at).taps;
                    used -= given_up.iter().map(|(_, spare, _)| u64::from(spare.ring)).sum::<u64>();
                    dropped.extend(given_up.into_iter().map(|(_, spare, _)| spare));
                    continue;
                }
                used += u64::from(ring);
                kind.loading.push(ring);
                orders.push(Order {
                    kind: kind.id,
                    namespace: kind.demand.namespace.clone(),
                    settings: kind.demand.settings.clone(),
                    ring,
                });
            }
        }
        (orders, dropped)
    }

    /// A new tap goes to a young pair that has come meanwhile, else it is kept ready. One that nobody wants comes back.
    fn stock(&mut self, id: u64, spare: Spare) -> Option<Spare> {
        let Some(kind) = self.kinds.iter_mut().find(|kind| kind.id == id) else { return Some(spare) };
        kind.loading.pop();
        let now = Instant::now();
        match self.pairs.iter_mut().find(|pair| pair.lacks(kind, now)) {
            Some(pair) => pair.attach(id, spare, &mut self.freed),
            None => kind.spares.push(spare),
        }
        None
    }

    fn take(&mut self, settings: &Settings, interface: &HostInterface) -> (Option<Early>, Vec<Spare>) {
        let mut dropped = Vec::new();
        let same = |kind: &&Kind| !needs_another_tap(&kind.demand.settings, settings);
        let Some(kind) = self.kinds.iter().find(same).map(|kind| kind.id) else { return (None, dropped) };
        let found = self.pairs.iter_mut().find(|pair| {
            // One that led elsewhere when it came has carried somebody else's packets.
            pair.index == interface.link.index && pair.peer == interface.peer
        });
        let Some(pair) = found else { return (None, dropped) };
        pair.proven.get_or_insert_with(Instant::now);
        while let Some(at) = pair.taps.iter().position(|(of, ..)| *of == kind) {
            let (_, Spare { tap, ring }, since) = pair.taps.swap_remove(at);
            // The kernel's own word that it is still the interface that the tap was put on, and no later one that got
            // the same index.
            if tap.is_on(interface.link.index) {
                let late = since.duration_since(pair.seen) > AT_ONCE;
                return (Some(Early { tap, ring, since, late }), dropped);
            }
            dropped.push(Spare { tap, ring });
        }
        (None, dropped)
    }
}

impl Pair {
    /// Whether it has come lately and lacks taps of that kind.
    fn lacks(&self, kind: &Kind, now: Instant) -> bool {
        self.proven.is_none()
            && now.duration_since(self.seen) <= YOUNG
            && self.taps.iter().filter(|(of, ..)| *of == kind.id).count() < kind.demand.copies
    }

    fn attach(&mut self, kind: u64, mut spare: Spare, freed: &mut Vec<u32>) {
        match spare.tap.attach(self.index) {
            Ok(()) => {
                debug!(index = self.index, after = ?self.seen.elapsed(), "a new interface is tapped provisionally");
                self.taps.push((kind, spare, Instant::now()));
            }
            // It is gone already: nothing was captured, so the tap may be dropped here.
            Err(error) => {
                debug!(index = self.index, %error, "a new interface cannot be tapped");
                freed.push(spare.ring);
            }
        }
    }
}
