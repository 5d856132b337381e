//! Where a session captures: its pod's interface is found, tapped, lost, and found again.

use std::time::Instant;

use capture_api::{Refusal, RunState};

use super::{Phase, Session, change::NO_RINGS, ending::storage_failed, hunt, node::Node};
use crate::pods::{HostInterface, Link, LinkEvent, Links, Place, ResolveError};

impl Session {
    /// Finds the pod's interface and has a tap loaded for it.
    pub(super) fn begin(&mut self, node: &mut Node, now: Instant) -> Phase {
        let later = Phase::Waiting { again: now + node.limits.retry };
        self.place_changed = false;
        let hunted = std::mem::take(&mut self.hunting);
        let (Some(wanted), Some(settings)) = (&self.wanted, self.target()) else {
            // An unfinished run of an earlier agent, whose request has not been heard of yet.
            return later;
        };
        self.run.settings = Some(settings.clone());
        if !self.mending.is_empty() && settings.limits.packets.is_some() {
            // How many packets it may still have is known when those in its files are counted.
            return Phase::Waiting { again: now };
        }
        if let Err(reason) = node.storage.room_in(&self.dir) {
            return self.conclude(&storage_failed(&reason));
        }
        let interface = match wanted.pod.place.as_ref().map(|place| node.finder.resolve(place)) {
            Some(Ok(interface)) => interface,
            Some(Err(error @ ResolveError::Forbidden(_))) => {
                return self.refuse(&Refusal::new("InterfaceNotAPods", error.to_string()));
            }
            Some(Err(error)) => {
                self.show(RunState::Pending, "InterfaceMissing", &error.to_string());
                self.hunting = self.can_hunt();
                return later;
            }
            None => return later,
        };
        if let Some(tapped) = self.adopt(node, &interface, &settings) {
            return tapped;
        }
        if hunted {
            self.note(hunt::MISSING.into());
        }
        let Some(ring) = node.grant_ring() else {
            if self.run.started.is_some() {
                self.show(
                    RunState::Pending,
                    "BudgetExhausted",
                    &format!("{NO_RINGS} The capture goes on when there is room."),
                );
                return later;
            }
            let advice = "End some of them, or have memoryBudget raised, then ask again.";
            return self.refuse(&Refusal::new("BudgetExhausted", format!("{NO_RINGS} {advice}")));
        };
        let ticket = self.next_ticket();
        let mode = node.mode_for_new(now);
        node.load(self.id, ticket, &self.run, &settings, ring, mode, false);
        Phase::Loading { interface, settings, mode }
    }

    /// News of a link.
    pub(super) fn link(&mut self, event: &LinkEvent, now: Instant) {
        if let Some(tapped) = self.tapped_link() {
            let lost = match event {
                LinkEvent::Removed { index } => *index == tapped.index,
                // Another link under the same index, or the pair now leads elsewhere.
                LinkEvent::Changed(link) => link.index == tapped.index && link.peer != tapped.peer,
            };
            self.interface_lost |= lost;
            if self.interface_lost {
                self.due = now;
            }
        } else if let Phase::Waiting { again } = &mut self.phase
            && self.run.state == RunState::Pending
        {
            (*again, self.due) = (now, now);
        }
    }

    /// Something happened to links, but not even to which is known.
    pub(super) fn links_missed(&mut self, links: &Links, now: Instant) {
        // It shows in what there is now.
        let index = self.tapped_link().map_or(0, |tapped| tapped.index);
        self.link(&links.now(index), now);
    }

    /// The link that is tapped, or is about to be.
    fn tapped_link(&self) -> Option<&Link> {
        match &self.phase {
            Phase::Attaching { info }
            | Phase::Tapped { info, .. }
            | Phase::Reloading { info, .. }
            | Phase::TakingOver { old: info, .. } => Some(&info.interface.link),
            _ => None,
        }
    }

    /// The pod's place was told anew: a tap on an interface that is not the pod's goes.
    pub(super) fn check_place(&mut self, node: &Node) {
        if !self.place_changed {
            return;
        }
        let Some((_, info)) = self.tap() else { return };
        // Without a place the settings are a refusal, and what is captured now goes on.
        let Some(place) = self.wanted.as_ref().and_then(|wanted| wanted.pod.place.as_ref()) else { return };
        let tapped = &info.interface;
        let lost = match node.finder.resolve(place) {
            Ok(now) => now.link.index != tapped.link.index || now.peer != tapped.peer,
            Err(ResolveError::NotYet(_) | ResolveError::Forbidden(_)) if !may_be_at(place, tapped) => true,
            // To be asked again.
            Err(_) => return,
        };
        self.interface_lost |= lost;
        self.place_changed = false;
    }

    /// Something was heard of where pods are.
    pub(super) fn place_news(&mut self, now: Instant) {
        if let Phase::Waiting { again } = &mut self.phase
            && self.hunting
        {
            (*again, self.due) = (now, now);
        }
    }
}

/// Whether an interface that was found before may still be the one at a place where none can be found now. One that is
/// named is where its name says or nowhere; of a pod that is going, less and less can be known, and its interface is its
/// own until it is removed.
fn may_be_at(place: &Place, found: &HostInterface) -> bool {
    match place {
        Place::Interface(_) | Place::Netns(_) => false,
        Place::Pod(pod) => pod.interface.as_ref().is_none_or(|wanted| *wanted == found.inside),
    }
}
