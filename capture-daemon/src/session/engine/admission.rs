//! What becomes of a request: it is a session's that is there already, makes a new one, or is refused.

use std::time::Instant;

use capture_api::{Refusal, RunState};
use jiff::Timestamp;
use tracing::{error, warn};

use super::Engine;
use crate::{
    session::{
        Session, SessionId,
        run::{HOUR, Run},
        wanted::{Allowance, RunKey, Wanted},
    },
    storage::RunDir,
};

impl Engine {
    /// A request is new or has changed.
    pub(super) fn wanted(&mut self, mut wanted: Wanted) {
        let now = Instant::now();
        let known = self.of_wanted(&wanted).map(|session| (session.id, session.would_begin(&wanted)));
        if let Some((_, true)) = known
            && let Err(refusal) = self.room_for(&wanted)
        {
            wanted.settings = Err(refusal);
        }
        if let Some(session) = known.and_then(|(id, _)| self.sessions.get_mut(&id)) {
            return session.request(wanted, now);
        }
        let refusal = wanted.forbidden.clone().or_else(|| wanted.settings.as_ref().err().cloned());
        let verdict = refusal.map_or_else(|| self.room_for(&wanted), Err);
        if let Err(refusal) = &verdict
            && !self.keeps_refused(&wanted)
        {
            self.homeless.remove(&wanted.key);
            return self.turn_away(&wanted, refusal);
        }
        let mut number =
            self.sessions_of(&wanted.key).map(|session| session.run.number + 1).max().unwrap_or(0);
        let (mut run, dir) = loop {
            let run = Run::new(&wanted, number, &self.node.name);
            match self.node.storage.new_run(&run.namespace, &run.record) {
                Ok(Some(dir)) => break (run, dir),
                // What is there stays as it is: a run that this agent cannot read, perhaps.
                Ok(None) => number += 1,
                Err(error) => {
                    // Without a directory there is no record that could tell of it. Said once.
                    let (pod, namespace) = (wanted.pod.name.clone(), wanted.pod.namespace.clone());
                    if self.homeless.insert(wanted.key.clone(), wanted).is_none() {
                        error!(pod, namespace, %error, "cannot make a directory for a capture; trying on");
                    }
                    return;
                }
            }
        };
        self.strays.take(&dir);
        self.homeless.remove(&wanted.key);
        self.turned_away.remove(&wanted.key);
        run.forbidden = wanted.forbidden.is_some();
        match verdict {
            Ok(()) => run.count(wanted.allowance, Timestamp::now()),
            Err(refusal) => self.refused(&mut run, &refusal),
        }
        self.insert(run, dir, Some(wanted));
    }

    /// A request was withdrawn.
    pub(super) fn gone(&mut self, key: &RunKey) {
        self.homeless.remove(key);
        self.turned_away.remove(key);
        let known = self.sessions_of(key).find(|session| session.wanted.is_some()).map(|session| session.id);
        if let Some(session) = known.and_then(|id| self.sessions.get_mut(&id)) {
            session.withdraw();
        }
    }

    /// Everything that is wanted has been named: runs of earlier agents that were not are over.
    pub(super) fn listed(&mut self) {
        self.node.telemetry.listed();
        for session in self.sessions.values_mut() {
            if session.wanted.is_none() && !session.run.released {
                session.withdraw();
            }
        }
    }

    /// Whether the namespace may have one run more.
    fn room_for(&self, wanted: &Wanted) -> Result<(), Refusal> {
        let (namespace, Allowance { at_once, per_hour }) = (&wanted.key.namespace, wanted.allowance);
        let uid = &wanted.pod.namespace_uid;
        let own = |run: &Run| run.namespace == *namespace && run.namespace_uid == *uid;
        let runs = || self.sessions.values().filter(|session| own(&session.run));
        let running = runs().filter(|session| !session.is_over()).count();
        if running >= at_once as usize {
            return Err(Refusal::new(
                "TooManyCaptures",
                format!(
                    "Namespace {namespace} already has {running} captures on this node, and {at_once} are allowed at \
                     once. End one, then ask again."
                ),
            ));
        }
        let now = Timestamp::now();
        let within = |begun: Timestamp| now.duration_since(begun) < HOUR;
        let lately = runs().filter(|session| session.run.begun.is_some_and(within)).count();
        match per_hour {
            Some(most) if lately >= most as usize => Err(Refusal::new(
                "TooManyCapturesPerHour",
                format!(
                    "Namespace {namespace} has begun {lately} captures on this node within an hour, and {most} are \
                     allowed. Ask again later."
                ),
            )),
            _ => Ok(()),
        }
    }

    fn refused(&self, run: &mut Run, refusal: &Refusal) {
        run.refuse(RunState::Refused, refusal);
        run.ended = Some(Timestamp::now());
        warn!(
            record = run.record,
            namespace = run.namespace,
            reason = refusal.reason,
            "refused: {}",
            refusal.message
        );
    }

    /// Makes a session of the run.
    pub(super) fn insert(&mut self, run: Run, dir: RunDir, wanted: Option<Wanted>) -> SessionId {
        // What a namespace that is gone has left is not its successor's of the same name.
        if let Err(error) = dir.charge(&format!("{}/{}", run.namespace, run.namespace_uid)) {
            warn!(record = run.record, %error, "not counted for its namespace's quota");
        }
        self.last_id += 1;
        self.by_key.entry(run.key()).or_default().push(self.last_id);
        let session = Session::new(self.last_id, run, dir, wanted, Instant::now());
        self.sessions.insert(self.last_id, session);
        self.last_id
    }

    /// The run of that request that is not yet withdrawn.
    fn of_wanted(&self, wanted: &Wanted) -> Option<&Session> {
        // A namespace that was made again continues nothing of its predecessor's.
        self.sessions_of(&wanted.key)
            .find(|session| !session.run.released && session.run.namespace_uid == wanted.pod.namespace_uid)
    }

    /// The runs of that request on that pod, the oldest first.
    fn sessions_of(&self, key: &RunKey) -> impl Iterator<Item = &Session> {
        self.by_key.get(key).into_iter().flatten().filter_map(|id| self.sessions.get(id))
    }
}
