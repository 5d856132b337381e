//! Whether packets reach or leave a pod past the interface that is tapped.
//!
//! Some CNIs redirect packets from one interface straight into the pod. The host's end of the pair does not see them, and
//! a capture would look like half a conversation, or like no traffic at all. The pod's own end counts them all the same.

use std::time::{Duration, Instant};

use capture_api::{Direction, RunState};

use super::{Session, TapInfo};
use crate::{
    datapath::Counters,
    pods::{Finder, LinkCounters},
};

/// How often the counters of a capturing session are compared.
const EACH: Duration = Duration::from_secs(10);
/// A few packets more inside are a matter of when the counters were read.
const TOLERATED: u64 = 20;

/// What was counted at two places at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reading {
    /// By the interface inside the pod.
    inside: LinkCounters,
    /// By the tap, from the pod and to it.
    seen: (u64, u64),
}

/// A comparison of one tap with its pod's interface.
#[derive(Debug)]
pub(super) struct Comparison {
    first: Reading,
    due: Instant,
}

/// Which way packets pass by the tapped interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bypass {
    from_pod: bool,
    to_pod: bool,
    /// What was asked for.
    direction: Direction,
}

impl Bypass {
    fn between(first: &Reading, now: &Reading, direction: Direction) -> Self {
        let past = |inside: (u64, u64), seen: (u64, u64)| {
            let inside = inside.1.saturating_sub(inside.0);
            let unseen = inside.saturating_sub(seen.1.saturating_sub(seen.0));
            unseen > TOLERATED && unseen > inside / 10
        };
        Self {
            from_pod: direction != Direction::ToPod
                && past((first.inside.sent, now.inside.sent), (first.seen.0, now.seen.0)),
            to_pod: direction != Direction::FromPod
                && past((first.inside.received, now.inside.received), (first.seen.1, now.seen.1)),
            direction,
        }
    }

    /// The record's reason, and what to do.
    pub(super) fn told(self, interface: &str) -> Option<(&'static str, String)> {
        let Self { from_pod, to_pod, direction } = self;
        let which = match (from_pod, to_pod) {
            (false, false) => return None,
            (true, true) => "Packets of the pod",
            (false, true) => "Packets to the pod",
            (true, false) => "Packets from the pod",
        };
        let all = (from_pod || direction == Direction::ToPod) && (to_pod || direction == Direction::FromPod);
        let (reason, rest) = match (all, to_pod) {
            (true, _) => ("TrafficBypassesInterface", "its files lack most of them"),
            (false, true) => ("OneDirectionOnly", "its files hold little but what it sends"),
            (false, false) => ("OneDirectionOnly", "its files hold little but what it receives"),
        };
        Some((
            reason,
            format!(
                "{which} do not pass its host interface {interface}: something on this node, such as a CNI that \
                 redirects them (eBPF host routing), hands them on another way, so {rest}. Capture the other end of \
                 the conversation as well, or have the CNI route through the host while you capture."
            ),
        ))
    }
}

impl Session {
    /// Compares when it is time, or `now_or_never`. The counters are those of the tap just now.
    pub(super) fn compare(&mut self, finder: &Finder, now_or_never: bool) {
        let now = Instant::now();
        let due = self.comparison.as_ref().is_none_or(|comparison| now >= comparison.due);
        if !(due || now_or_never) {
            return;
        }
        let Some((tap, info)) = self.tap() else { return };
        if info.control.is_halted() {
            // What passes meanwhile is not counted by the tap.
            self.comparison = None;
            return;
        }
        // The pod's counters first: then those that were read later are too high rather than too low.
        let (Ok(inside), Ok(seen)) = (finder.links().counters_inside(info.interface.peer), tap.counters())
        else {
            return;
        };
        self.compared(Reading { inside, seen: seen_by(&seen) }, now);
    }

    fn compared(&mut self, reading: Reading, now: Instant) {
        let due = now + EACH;
        let Some(comparison) = &mut self.comparison else {
            self.comparison = Some(Comparison { first: reading, due });
            return;
        };
        comparison.due = due;
        let first = comparison.first;
        let Some((_, TapInfo { interface, settings, .. })) = self.tap() else { return };
        let (name, direction) = (interface.link.name.clone(), settings.direction);
        self.bypass = Bypass::between(&first, &reading, direction);
        if let Some((_, note)) = self.bypass.told(&name) {
            self.note(note);
            if matches!(self.run.state, RunState::Capturing | RunState::WaitingForTraffic) {
                self.show_capturing();
            }
        }
    }
}

fn seen_by(counters: &Counters) -> (u64, u64) {
    (counters.from_pod.seen, counters.to_pod.seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(sent: u64, received: u64, seen: (u64, u64)) -> Reading {
        Reading { inside: LinkCounters { received, sent }, seen }
    }

    fn reason(now: &Reading, direction: Direction) -> Option<&'static str> {
        let first = reading(1000, 5000, (10, 10));
        Bypass::between(&first, now, direction).told("veth1").map(|(reason, _)| reason)
    }

    #[test]
    fn what_both_ends_count_is_no_bypass() {
        assert_eq!(reason(&reading(1100, 5100, (110, 110)), Direction::Both), None);
        // Read a moment apart, under load.
        assert_eq!(reason(&reading(101_000, 105_000, (95_010, 96_010)), Direction::Both), None);
        assert_eq!(reason(&reading(1020, 5020, (10, 10)), Direction::Both), None, "a few packets");
        // Packets that the pod never gets are seen and not received.
        assert_eq!(reason(&reading(1000, 5000, (500, 500)), Direction::Both), None);
    }

    #[test]
    fn each_way_is_told_from_the_other() {
        let to_pod = reading(1100, 5100, (110, 12));
        assert_eq!(reason(&to_pod, Direction::Both), Some("OneDirectionOnly"));
        assert_eq!(reason(&to_pod, Direction::FromPod), None, "nobody asked for that direction");
        let both = reading(1100, 5100, (10, 12));
        assert_eq!(reason(&both, Direction::Both), Some("TrafficBypassesInterface"));
        assert_eq!(reason(&to_pod, Direction::ToPod), Some("TrafficBypassesInterface"));
        let bypass = Bypass { from_pod: true, ..Bypass::default() };
        let message = bypass.told("veth1").unwrap().1;
        assert!(message.contains("Packets from the pod do not pass its host interface veth1"), "{message}");
    }
}
