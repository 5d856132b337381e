//! How sessions come by taps that were on their pod's interface before anybody knew whose it is.

use capture_api::Settings;
use jiff::{SignedDuration, Timestamp};
use tracing::info;

use super::{
    Phase, Session, TapInfo,
    engine::{Engine, Event},
    node::{LoadFailure, Node},
    provisional::{Demand, Early},
    tap_settings::needs_another_tap,
};
use crate::{
    datapath::{AttachMode, Tap},
    pods::{HostInterface, Place},
};

/// A record's note when no tap was there in time.
pub(super) const MISSING: &str =
    "The pod's interface came before a tap could: its first packets may be missing.";

impl Engine {
    /// Has taps loaded for pods that have no interface yet, and drops those that nobody waits for any more.
    pub(super) fn hunt(&mut self) {
        let mut demands: Vec<Demand> = Vec::new();
        // A pod's sessions follow each other nowhere, so they are counted by pod.
        let mut pods: Vec<Vec<(&str, usize)>> = Vec::new();
        for session in self.sessions.values() {
            let Some(settings) = session.hunts() else { continue };
            let same = |demand: &Demand| !needs_another_tap(&demand.settings, settings);
            let at = demands.iter().position(same).unwrap_or_else(|| {
                let namespace = session.run.namespace.clone();
                demands.push(Demand { namespace, settings: settings.clone(), pods: 0, copies: 0 });
                pods.push(Vec::new());
                demands.len() - 1
            });
            match pods[at].iter_mut().find(|(pod, _)| *pod == session.run.pod_uid) {
                Some((_, sessions)) => *sessions += 1,
                None => pods[at].push((&session.run.pod_uid, 1)),
            }
        }
        for (demand, pods) in demands.iter_mut().zip(&pods) {
            demand.pods = pods.len();
            demand.copies = pods.iter().map(|(_, sessions)| *sessions).max().unwrap_or(0);
        }
        self.node.provisional.want(demands);
        for order in self.node.provisional.orders() {
            match self.node.rings.grant_at_most(order.ring) {
                Some(ring) => self.node.load_ahead(order.kind, &order.namespace, &order.settings, ring),
                None => self.node.provisional.refused(order.kind),
            }
        }
        for ring in self.node.provisional.freed() {
            self.node.rings.release(ring);
        }
    }

    /// A tap that was loaded ahead is there, or why not.
    pub(super) fn loaded_ahead(&mut self, kind: u64, ring: u32, tap: Result<Tap, LoadFailure>) {
        let Some((settings, refusal)) = self.node.provisional.loaded(kind, ring, tap) else { return };
        // A filter that cannot be compiled is told now, not when the pod has its interface.
        for session in self.sessions.values_mut() {
            if session.hunts().is_some_and(|own| own.filter == settings.filter) {
                if session.goes_on_without(&settings.filter, &refusal) {
                    session.in_force(None);
                } else {
                    session.phase = session.refuse(&refusal);
                }
            }
        }
    }
}

impl Node {
    /// Memory for a ring. What is kept ready for pods to come is given up for it.
    pub(super) fn grant_ring(&mut self) -> Option<u32> {
        if let Some(ring) = self.rings.grant() {
            return Some(ring);
        }
        self.provisional.give_up();
        for ring in self.provisional.freed() {
            self.rings.release(ring);
        }
        self.rings.grant()
    }

    /// Has a running tap loaded that is to be put on a new interface.
    fn load_ahead(&self, kind: u64, namespace: &str, settings: &Settings, ring: u32) {
        let answers = self.answers.clone();
        self.load_tap(namespace, settings, ring, AttachMode::Socket, true, move |tap| {
            // Without an engine there is nobody to tell, and the tap is dropped.
            let _ = answers.send(Event::Ahead { kind, ring, tap: Box::new(tap) });
        });
    }
}

impl Session {
    /// What taps should do that are loaded ahead for it: while its pod has no interface.
    pub(super) fn hunts(&self) -> Option<&Settings> {
        let hunting = self.hunting && matches!(self.phase, Phase::Waiting { .. });
        self.run.settings.as_ref().filter(|_| hunting)
    }

    /// Whether the pod's interface is one that is found, and can come at any moment.
    pub(super) fn can_hunt(&self) -> bool {
        let place = self.wanted.as_ref().and_then(|wanted| wanted.pod.place.as_ref());
        matches!(place, Some(Place::Pod(_)))
    }

    /// Goes on with a tap that has been on the interface since it came; none when there is no such tap.
    pub(super) fn adopt(
        &mut self,
        node: &mut Node,
        interface: &HostInterface,
        settings: &Settings,
    ) -> Option<Phase> {
        let Early { mut tap, ring, since, late } = node.provisional.take(settings, interface)?;
        if late {
            self.note(MISSING.into());
        }
        let control = tap.control().clone();
        let info = TapInfo {
            id: node.tap_number(),
            control,
            interface: interface.clone(),
            ring,
            settings: settings.clone(),
            mode: AttachMode::Socket,
        };
        let waited = since.elapsed();
        info!(
            namespace = self.run.namespace,
            record = self.run.record,
            interface = interface.link.name,
            waited_ms = waited.as_millis() as u64,
            "has been tapped since it came"
        );
        Some(match self.consume(node, &mut tap, &info) {
            Ok(()) => {
                let waited = SignedDuration::try_from(waited).unwrap_or_default();
                let began = Timestamp::now().checked_sub(waited).unwrap_or_else(|_| Timestamp::now());
                self.run.started.get_or_insert(began);
                self.tapped(tap, info)
            }
            Err(error) => {
                node.rings.release(ring);
                self.fail("LoadFailed", error)
            }
        })
    }
}
