//! Captures whose window is over before anything of them was captured here.
//!
//! Pods that come when a window is over have no part in it, and nothing is said of them. A capture that was heard of only
//! now is another matter: its window was reckoned by the API server's clock, this node's may be ahead of it, and whoever
//! asked must not be left without an answer.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use capture_api::{DesiredState, Refusal};
use jiff::Timestamp;

use crate::session::wanted::{RunKey, Wanted};

/// For so long a capture is one that was heard of only now: its pods may take a moment to be known.
const NEW: Duration = Duration::from_secs(30);

/// What came too late.
#[derive(Debug, Default)]
pub(super) struct Late {
    /// When captures were first heard of, by UID; those of late.
    heard: HashMap<String, Instant>,
    /// Runs that have been refused for it.
    refused: BTreeMap<RunKey, Refusal>,
}

impl Late {
    /// The capture of that UID was not known before.
    pub(super) fn heard(&mut self, uid: String, now: Instant) {
        self.heard.insert(uid, now);
    }

    /// Takes out what comes too late, unless it is `known` already; what was heard of only now is refused instead.
    pub(super) fn judge(
        &mut self,
        wanted: &mut BTreeMap<RunKey, Wanted>,
        (now, clock): (Instant, Timestamp),
        known: impl Fn(&RunKey) -> bool,
    ) {
        let Self { heard, refused } = self;
        heard.retain(|_, heard| now.duration_since(*heard) < NEW);
        refused.retain(|key, _| wanted.contains_key(key));
        wanted.retain(|key, wanted| {
            let Ok(settings) = &wanted.settings else { return true };
            let (_, end) = settings.window(wanted.request.accepted);
            let stopped = settings.state == DesiredState::Stopped;
            if wanted.forbidden.is_some() || clock < end && !stopped {
                refused.remove(key);
                return true;
            }
            if let Some(refusal) = refused.get(key) {
                wanted.settings = Err(refusal.clone());
                return true;
            }
            if known(key) {
                return true;
            }
            let answered = !stopped && heard.contains_key(&wanted.request.uid);
            if answered {
                let refusal = too_late(end, clock);
                refused.insert(key.clone(), refusal.clone());
                wanted.settings = Err(refusal);
            }
            answered
        });
    }
}

fn too_late(end: Timestamp, clock: Timestamp) -> Refusal {
    Refusal::new(
        "WindowOver",
        format!(
            "The window was over at {end}, and this node heard of the capture when its clock said {clock:.0}. If the \
             capture was made a moment ago, the clocks of this node and of the API server differ: have them set, or ask \
             for a longer duration."
        ),
    )
}

#[cfg(test)]
mod tests {
    use capture_api::{Caps, Defaults, from_spec};
    use serde_json::json;

    use super::*;
    use crate::requests::test_wanted;

    /// A run of a capture made at 10:00:00 of so many seconds.
    fn wanted(capture: &str, seconds: u32) -> BTreeMap<RunKey, Wanted> {
        let accepted = "2026-12-01T10:00:00Z".parse().unwrap();
        let spec =
            serde_json::from_value(json!({"podNames": ["web"], "duration": format!("{seconds}s")})).unwrap();
        let settings = from_spec(&spec, accepted, &Defaults::default(), &Caps::default());
        let settings = settings.map(|(settings, _)| settings);
        let wanted = test_wanted::wanted("web", Some(capture), accepted, settings);
        [(wanted.key.clone(), wanted)].into()
    }

    fn judged(
        late: &mut Late,
        run: &BTreeMap<RunKey, Wanted>,
        now: Instant,
        known: bool,
    ) -> Option<Result<(), String>> {
        let mut run = run.clone();
        let clock = "2026-12-01T10:00:15Z".parse().unwrap();
        late.judge(&mut run, (now, clock), |_| known);
        let wanted = run.into_values().next()?;
        Some(wanted.settings.map(drop).map_err(|refusal| format!("{}: {}", refusal.reason, refusal.message)))
    }

    #[test]
    fn a_node_whose_clock_is_ahead_refuses_a_new_capture_instead_of_saying_nothing() {
        let (mut late, now) = (Late::default(), Instant::now());
        // Made ten seconds ago, as the API server sees it, for ten seconds: the node's clock is 5 s ahead.
        let run = wanted("new", 10);
        late.heard("new".into(), now);
        let refused = judged(&mut late, &run, now, false).unwrap().unwrap_err();
        assert!(refused.starts_with("WindowOver: The window was over at 2026-12-01T10:00:10Z"), "{refused}");
        assert!(refused.contains("10:00:15") && refused.contains("clocks"), "{refused}");
        // It stays refused for as long as it is there, and begins when its window is made longer.
        assert_eq!(judged(&mut late, &run, now + 2 * NEW, true), Some(Err(refused)));
        assert_eq!(judged(&mut late, &wanted("new", 60), now + 2 * NEW, true), Some(Ok(())));
    }

    #[test]
    fn pods_that_come_when_a_window_is_over_have_no_part_in_it() {
        let (mut late, now) = (Late::default(), Instant::now());
        let run = wanted("old", 10);
        assert_eq!(judged(&mut late, &run, now, false), None);
        late.heard("old".into(), now);
        assert_eq!(judged(&mut late, &run, now + NEW, false), None, "long ago");
        assert_eq!(judged(&mut late, &run, now, true), Some(Ok(())), "its run ends as any other");
        assert_eq!(judged(&mut late, &wanted("old", 20), now, false), Some(Ok(())));
    }
}
