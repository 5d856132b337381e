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

mod hunt;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use capture_api::{Refusal, Settings};
use tracing::warn;

use self::hunt::{Hunt, PATIENCE, Spare, YOUNG};
use super::{node::LoadFailure, workers::Workers};
use crate::{
    datapath::Tap,
    pods::{HostInterface, Link, LinkEvent},
    telemetry::snapshot::ProvisionalTaps,
};

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
