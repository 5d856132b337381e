//! What is ready, and what waits where: the kinds of taps that are needed, and the pairs of interfaces that came lately.
//!
//! Nothing here waits. Taps that are not needed any more are given back, because closing them takes a while.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use capture_api::Settings;
use tracing::debug;

use super::{Demand, Early, Order};
use crate::{
    datapath::Tap,
    pods::{HostInterface, Peer},
    session::tap_settings::needs_another_tap,
};

/// A tap waits for so long at most for its interface to be somebody's.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// A pair older than this is not worth a new tap: its pod has long spoken. One as old may lose its tap to a newer one.
pub(super) const YOUNG: Duration = Duration::from_secs(5);
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

/// All of it.
#[derive(Default)]
pub(super) struct Hunt {
    pub(super) kinds: Vec<Kind>,
    /// Pairs that came lately, oldest first.
    pub(super) pairs: Vec<Pair>,
    /// Where each known pair leads.
    pub(super) known: HashMap<u32, Peer>,
    /// Sizes of rings that are not used any more.
    pub(super) freed: Vec<u32>,
    last_kind: u64,
}

/// What taps of one kind do, and those that are on no interface.
pub(super) struct Kind {
    pub(super) id: u64,
    pub(super) demand: Demand,
    /// Bytes of the rings of taps that are being loaded.
    pub(super) loading: Vec<u32>,
    pub(super) spares: Vec<Spare>,
    /// It cannot be loaded; not tried again before this.
    pub(super) failed_until: Option<Instant>,
}

/// A tap, and the bytes of its ring.
pub(super) struct Spare {
    pub(super) tap: Tap,
    pub(super) ring: u32,
}

/// A pair of interfaces that is nobody's yet.
pub(super) struct Pair {
    index: u32,
    peer: Peer,
    seen: Instant,
    /// Whose it is has been found out, at this time.
    proven: Option<Instant>,
    /// By kind.
    pub(super) taps: Vec<(u64, Spare, Instant)>,
}

impl Hunt {
    /// A new pair: taps of all kinds are put on it.
    pub(super) fn meet(&mut self, index: u32, peer: Peer) {
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
    pub(super) fn forget(&mut self, index: u32) -> Vec<Spare> {
        let gone = self.pairs.extract_if(.., |pair| pair.index == index);
        gone.flat_map(|pair| pair.taps).map(|(_, spare, _)| spare).collect()
    }

    pub(super) fn want(&mut self, demands: Vec<Demand>) -> Vec<Spare> {
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
    pub(super) fn used(&self) -> u64 {
        let spares = self.kinds.iter().flat_map(|kind| &kind.spares);
        let waiting = self.pairs.iter().flat_map(|pair| &pair.taps).map(|(_, spare, _)| spare);
        spares.chain(waiting).map(|spare| u64::from(spare.ring)).sum()
    }

    /// What is missing, as far as the budget goes. Pairs that nobody has claimed for long give theirs up.
    pub(super) fn orders(&mut self, budget: u64) -> (Vec<Order>, Vec<Spare>) {
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
    pub(super) fn stock(&mut self, id: u64, spare: Spare) -> Option<Spare> {
        let Some(kind) = self.kinds.iter_mut().find(|kind| kind.id == id) else { return Some(spare) };
        kind.loading.pop();
        let now = Instant::now();
        match self.pairs.iter_mut().find(|pair| pair.lacks(kind, now)) {
            Some(pair) => pair.attach(id, spare, &mut self.freed),
            None => kind.spares.push(spare),
        }
        None
    }

    pub(super) fn take(
        &mut self,
        settings: &Settings,
        interface: &HostInterface,
    ) -> (Option<Early>, Vec<Spare>) {
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
