//! How much is kept of runs that were refused. Whoever may ask can ask for thousands; each that is refused with a record
//! takes a directory of the data directory and an object of the API server.

use std::collections::BTreeMap;

use capture_api::{Refusal, RunState};
use tracing::warn;

use super::Engine;
use crate::session::{
    Session, SessionId,
    wanted::{RequestId, RunKey, Wanted},
};

/// Refused runs of one namespace on this node that are kept with a record, unless it may have many captures at once.
const MOST: usize = 32;

/// Runs that were refused and have neither directory nor record, and the UIDs of their namespaces.
pub(super) type TurnedAway = BTreeMap<RunKey, String>;

/// How many refused runs a namespace keeps that may have so many captures at once.
fn most(at_once: u32) -> usize {
    MOST.max(2 * at_once as usize)
}

impl Session {
    /// Whether it is one of the refused runs that are kept.
    fn is_kept_refused(&self) -> bool {
        self.run.state == RunState::Refused && !self.run.expired && !self.dismissed
    }

    /// Whose request is gone goes first, then who was refused first.
    fn dispensability(&self) -> impl Ord + use<> {
        (!self.run.released, self.run.ended, self.id)
    }
}

impl Engine {
    /// Whether the refused run may have a record; one of its namespace whose request is gone makes room.
    pub(super) fn keeps_refused(&mut self, wanted: &Wanted) -> bool {
        let (namespace, uid) = (&wanted.key.namespace, &wanted.pod.namespace_uid);
        let kept = || {
            let own = move |session: &&Session| {
                session.is_kept_refused()
                    && session.run.namespace == *namespace
                    && session.run.namespace_uid == *uid
            };
            self.sessions.values().filter(own)
        };
        if kept().count() < most(wanted.allowance.at_once) {
            return true;
        }
        let gone = kept().filter(|session| session.run.released);
        let oldest = gone.min_by_key(|session| session.dispensability()).map(|session| session.id);
        self.dismiss(oldest);
        oldest.is_some()
    }

    /// Runs can also be refused after they began: of those that are too many the oldest go.
    pub(super) fn dismiss_refused(&mut self) {
        let mut kept: BTreeMap<(&str, &str), (usize, Vec<&Session>)> = BTreeMap::new();
        for session in self.sessions.values().filter(|session| session.is_kept_refused()) {
            let (bound, own) = kept.entry((&session.run.namespace, &session.run.namespace_uid)).or_default();
            let at_once = session.wanted.as_ref().map_or(0, |wanted| wanted.allowance.at_once);
            *bound = (*bound).max(most(at_once));
            own.push(session);
        }
        let surplus = kept.into_values().flat_map(|(bound, mut own)| {
            own.sort_by_key(|session| session.dispensability());
            own.truncate(own.len().saturating_sub(bound));
            own
        });
        let surplus: Vec<SessionId> = surplus.map(|session| session.id).collect();
        self.dismiss(surplus);
    }

    /// Retention ends for these now.
    fn dismiss(&mut self, ids: impl IntoIterator<Item = SessionId>) {
        for id in ids {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.dismissed = true;
            }
        }
    }

    /// The run is refused without a record. Its request hears of it once, however many pods it means.
    pub(super) fn turn_away(&mut self, wanted: &Wanted, refusal: &Refusal) {
        let key = &wanted.key;
        let first = RunKey { pod_uid: String::new(), ..key.clone() };
        let same = |known: &RunKey| known.namespace == key.namespace && known.request == key.request;
        let told = match key.request {
            RequestId::PacketCapture(_) => {
                self.turned_away.range(first..).next().is_some_and(|(known, _)| same(known))
            }
            RequestId::Label => self.turned_away.contains_key(key),
        };
        self.turned_away.insert(key.clone(), wanted.pod.namespace_uid.clone());
        if !told {
            let (namespace, capture, pod) = (&key.namespace, &wanted.request.name, &wanted.pod.name);
            warn!(
                namespace,
                capture,
                pod,
                reason = refusal.reason,
                "refused without a record: {}",
                refusal.message
            );
            self.records.turned_away(wanted, refusal);
        }
    }
}
