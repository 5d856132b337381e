//! What becomes of a request that changes: what of it is in force, and what is not.
//!
//! `run.settings` is always what the run does. Windows, limits and the like change at once; what is fixed in a tap's
//! program changes with the tap. A change that cannot be had leaves what is captured as it is, and the record says why,
//! with one exception: what is captured now may not be captured any more, because a cap or the user says so. Then the tap
//! is taken off, which also frees its ring, and the run begins anew with what is wanted, or ends with the reason.

use std::time::{Duration, Instant};

use capture_api::{Refusal, RunState, Settings};
use jiff::Timestamp;

use super::{
    Phase, Run, Session, TapInfo,
    node::Node,
    tap_settings::{as_tapped, needs_another_tap, tightens},
    wanted::Wanted,
};
use crate::{datapath::Tap, pods::Place};

/// How soon another tap is tried again that could not be had.
const AGAIN: Duration = Duration::from_secs(5);
/// Why there is no ring.
pub(super) const NO_RINGS: &str =
    "The agent's memory budget for rings is used up by other captures on this node.";

/// What is asked for, and what of it cannot be had.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The last settings that made sense, as they were resolved then.
    good: Option<Settings>,
    /// What the run should do: these within today's caps.
    asked: Option<Settings>,
    /// The filter of the latest tap.
    tapped: Option<String>,
    /// The filter that cannot be had instead, and why.
    refused: Option<(String, Refusal)>,
    /// A filter was refused since the latest tap was made: what is tighter does not wait for another one.
    hasty: bool,
    /// Why not all of the request makes sense.
    unclear: Option<String>,
    /// Why there is no other tap, and when to try again.
    failed: Option<(String, Instant)>,
}

impl Change {
    /// Of a run that is about to become a session.
    pub(super) fn of(run: &Run, wanted: Option<&Wanted>) -> Self {
        let asked = wanted.and_then(|wanted| wanted.settings.as_ref().ok());
        let settings = run.settings.as_ref().filter(|_| run.started.is_some());
        Self {
            good: asked.cloned(),
            asked: asked.cloned(),
            tapped: settings.map(|settings| settings.filter.clone()),
            ..Self::default()
        }
    }

    /// What of the request is not in force, one sentence each.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        let filter = self.refused.as_ref().map(|(_, refusal)| {
            format!("The filter is not in force, the one before it is: {}", refusal.message)
        });
        let failed = self
            .failed
            .as_ref()
            .map(|(why, _)| format!("The last change is not in force yet, and is tried again: {why}"));
        self.unclear.iter().cloned().chain(filter).chain(failed)
    }
}

impl Session {
    /// Whether a run that was refused begins with this request.
    pub(super) fn would_begin(&self, wanted: &Wanted) -> bool {
        let run = &self.run;
        run.state == RunState::Refused
            && wanted.forbidden.is_none()
            && wanted
                .settings
                .as_ref()
                .is_ok_and(|settings| run.forbidden || run.settings.as_ref() != Some(settings))
    }

    /// The request is new or has changed.
    pub(super) fn request(&mut self, mut wanted: Wanted, now: Instant) {
        self.due = now;
        if wanted.forbidden.is_none() && !self.is_over() {
            wanted.forbidden = self.aim(&wanted).err();
        }
        match &wanted.settings {
            _ if wanted.forbidden.is_some() => self.forbid(wanted.forbidden.as_ref()),
            Ok(settings) if self.would_begin(&wanted) => {
                // Refused before it began: what was changed may make it possible.
                self.run.settings = Some(settings.clone());
                self.run.notes.clone_from(&wanted.notes);
                self.run.accepted = wanted.request.accepted;
                self.run.count(wanted.allowance, Timestamp::now());
                (self.run.ended, self.run.forbidden, self.run.expired) = (None, false, false);
                self.run.set(RunState::Pending, "", "");
                self.change = Change::of(&self.run, Some(&wanted));
                self.apply_limits();
                self.phase = Phase::Waiting { again: now };
            }
            Err(refusal) if self.run.state == RunState::Refused => {
                self.run.refuse(RunState::Refused, refusal)
            }
            _ => {}
        }
        if wanted.forbidden.is_none() {
            self.forbid(None);
        }
        if let Phase::Waiting { again } = &mut self.phase {
            // A run of an earlier agent has waited for nothing else, and a change may be what it waits for.
            *again = now;
        }
        if let (Err(_), Some(Place::Pod(place)), Some(settings)) =
            (&wanted.settings, &mut wanted.pod.place, &self.run.settings)
        {
            // Without settings nothing is said of the interface, and the run stays where it is.
            place.interface.clone_from(&settings.interface);
        }
        self.place_changed |= self.wanted.as_ref().is_some_and(|before| before.pod.place != wanted.pod.place);
        self.wanted = Some(wanted);
        self.unsaved = true;
    }

    /// Works out what the run should do from now on. A request that makes no sense changes nothing but what today's
    /// caps clip.
    ///
    /// # Errors
    /// Nothing may be captured as it was asked.
    fn aim(&mut self, wanted: &Wanted) -> Result<(), Refusal> {
        let run = &self.run;
        let (mut good, mut unclear) = match &wanted.settings {
            Ok(settings) => (settings.clone(), None),
            Err(refusal) => {
                let Some(known) = self.change.good.as_ref().or(run.settings.as_ref()) else { return Ok(()) };
                (known.clone(), Some(format!("The last change is not in force: {refusal}")))
            }
        };
        // One window for each run: it does not move while packets are captured.
        let begun = run.settings.as_ref().filter(|_| run.started.is_some());
        if let Some(begun) = begun.filter(|begun| begun.start_time != good.start_time) {
            good.start_time = begun.start_time;
            unclear.get_or_insert(
                "startTime is not taken over: the capture has begun. Create another PacketCapture."
                    .to_owned(),
            );
        }
        let (asked, clipped) = good.clone().within(run.accepted, &wanted.caps)?;
        let change = &mut self.change;
        change.refused = change.refused.take().filter(|(filter, _)| *filter == asked.filter);
        (change.good, change.asked, change.unclear, change.failed) = (Some(good), Some(asked), unclear, None);
        self.run.notes.clone_from(&wanted.notes);
        self.run.notes.extend(clipped);
        let tapped = self.settings_of_tap().cloned();
        self.in_force(tapped.as_ref());
        self.apply_limits();
        Ok(())
    }

    /// What the run should do, as far as that can be had.
    pub(super) fn target(&self) -> Option<Settings> {
        let Change { asked, tapped, refused, .. } = &self.change;
        let mut settings = asked.as_ref().or(self.run.settings.as_ref())?.clone();
        if let (Some((filter, _)), Some(tapped)) = (refused, tapped)
            && *filter == settings.filter
        {
            settings.filter.clone_from(tapped);
        }
        Some(settings)
    }

    /// What is in force with a tap of these settings; without a tap all that can be had.
    pub(super) fn in_force(&mut self, tapped: Option<&Settings>) {
        let Some(target) = self.target() else { return };
        self.run.settings = Some(tapped.map_or_else(|| target.clone(), |tapped| as_tapped(&target, tapped)));
        self.unsaved = true;
    }

    /// A tap of these settings is in place.
    pub(super) fn took(&mut self, tapped: &Settings) {
        (self.change.tapped, self.change.hasty) = (Some(tapped.filter.clone()), false);
        if self.target().is_some_and(|target| !needs_another_tap(tapped, &target)) {
            self.change.failed = None;
        }
        self.in_force(Some(tapped));
    }

    /// Goes on, with another tap when the settings ask for one.
    pub(super) fn keep_capturing(
        &mut self,
        node: &mut Node,
        now: Instant,
        tap: Tap,
        info: TapInfo,
        paused: bool,
    ) -> Phase {
        let Some(mut target) = self.target() else { return Phase::Tapped { tap, info } };
        if self.change.hasty && tightens(&info.settings, &target) {
            target.filter.clone_from(&info.settings.filter);
        }
        let other = needs_another_tap(&info.settings, &target);
        if paused {
            info.control.set_halted(true);
            self.comparison = None;
            self.show(RunState::Paused, "PauseRequested", "Nothing is captured until state is Running.");
        } else {
            // After a pause not a packet is taken that may not be taken any more.
            if info.control.is_halted() && !(other && tightens(&info.settings, &target)) {
                info.control.set_halted(false);
            }
            self.show_capturing();
        }
        if !other || self.change.failed.as_ref().is_some_and(|(_, again)| now < *again) {
            return Phase::Tapped { tap, info };
        }
        let Some(ring) = node.grant_ring() else {
            return self.without_another(node, tap, info, &target, NO_RINGS);
        };
        let ticket = self.next_ticket();
        node.load(self.id, ticket, &self.run, &target, ring, info.mode, true);
        Phase::Reloading { tap, info, settings: target }
    }

    /// There is no tap for these settings. What is captured now goes on unless it may not; then its tap goes.
    pub(super) fn without_another(
        &mut self,
        node: &Node,
        tap: Tap,
        info: TapInfo,
        wanted: &Settings,
        why: &str,
    ) -> Phase {
        self.change.failed = Some((why.to_owned(), Instant::now() + AGAIN));
        self.unsaved = true;
        if !tightens(&info.settings, wanted) {
            return Phase::Tapped { tap, info };
        }
        info.control.set_halted(true);
        self.detach(node, tap, info)
    }

    /// A filter cannot be had. True if the run goes on with the one before it.
    pub(super) fn goes_on_without(&mut self, filter: &str, refusal: &Refusal) -> bool {
        let goes_on = self.change.tapped.as_ref().is_some_and(|tapped| tapped != filter);
        if goes_on {
            (self.change.refused, self.change.hasty) = (Some((filter.to_owned(), refusal.clone())), true);
            self.unsaved = true;
        }
        goes_on
    }
}
