//! Who may write: the rules, without a clock or a network of their own.
//!
//! Clocks of different machines are not compared. A candidate watches the lease itself: when it has not changed for as
//! long as it says that it holds, measured by the candidate's own clock, nobody renews it any more. The holder counts
//! from before it asked for the last renewal that worked, and gives up earlier than anybody may take over.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

/// How long things take, all from how long a lease holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long a lease holds that is not renewed.
    pub(super) duration: Duration,
}

impl Times {
    /// How long after its last renewal the holder may still write.
    pub(super) fn deadline(self) -> Duration {
        self.duration * 2 / 3
    }

    /// How often the holder renews, and others look.
    pub(super) fn retry(self) -> Duration {
        self.duration * 2 / 15
    }

    /// How long a request may take: two of them fit before the deadline.
    pub(super) fn request(self) -> Duration {
        self.deadline() / 3
    }
}

/// The lease as this candidate has seen it, and since when it looks like this.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    version: String,
    since: Option<Instant>,
}

/// What a candidate should do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// There is no lease: make one.
    Create(LeaseSpec),
    /// Take it over or renew it, if it still is as it was seen.
    Write(LeaseSpec),
    /// Somebody else holds it.
    Wait,
}

impl Seen {
    /// What to do about the lease as it is at `now` (by the own clock) and `utc` (for people).
    pub(super) fn decide(
        &mut self,
        me: &str,
        lease: Option<&Lease>,
        times: Times,
        now: Instant,
        utc: Timestamp,
    ) -> Step {
        let Some(lease) = lease else {
            return Step::Create(held_by(me, times, 0, None, utc));
        };
        let version = lease.metadata.resource_version.as_deref().unwrap_or_default();
        if self.version != version || self.since.is_none() {
            self.version = version.to_owned();
            self.since = Some(now);
        }
        let none = LeaseSpec::default();
        let spec = lease.spec.as_ref().unwrap_or(&none);
        let transitions = spec.lease_transitions.unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder == me {
            return Step::Write(held_by(me, times, transitions, spec.acquire_time.clone(), utc));
        }
        // What the holder said when it took it; whoever set another duration for itself changes nothing about that.
        let promised = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let promised = promised.map_or(times.duration, Duration::from_secs);
        let unchanged = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if holder.is_empty() || unchanged > promised {
            Step::Write(held_by(me, times, transitions.saturating_add(1), None, utc))
        } else {
            Step::Wait
        }
    }
}

fn held_by(me: &str, times: Times, transitions: i32, since: Option<MicroTime>, utc: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(i32::try_from(times.duration.as_secs()).unwrap_or(i32::MAX)),
        acquire_time: Some(since.unwrap_or(MicroTime(utc))),
        renew_time: Some(MicroTime(utc)),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

/// The lease as a holder leaves it that gives it up: anybody may take it at once.
pub(super) fn given_up(spec: &LeaseSpec) -> LeaseSpec {
    LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec.clone() }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    const TIMES: Times = Times { duration: Duration::from_secs(15) };

    fn lease(holder: &str, version: &str, transitions: i32) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.to_owned()), ..ObjectMeta::default() },
            spec: Some(held_by(holder, TIMES, transitions, None, Timestamp::UNIX_EPOCH)),
        }
    }

    fn holder(step: &Step) -> Option<(&str, i32)> {
        match step {
            Step::Create(spec) | Step::Write(spec) => {
                Some((spec.holder_identity.as_deref().unwrap(), spec.lease_transitions.unwrap()))
            }
            Step::Wait => None,
        }
    }

    #[test]
    fn the_first_makes_the_lease_and_renews_it() {
        let (mut seen, now, utc) = (Seen::default(), Instant::now(), Timestamp::from_second(7).unwrap());
        let step = seen.decide("a", None, TIMES, now, utc);
        assert!(matches!(step, Step::Create(_)) && holder(&step) == Some(("a", 0)));
        let mine = lease("a", "1", 0);
        let step = seen.decide("a", Some(&mine), TIMES, now, utc);
        let Step::Write(spec) = &step else { panic!("{step:?}") };
        assert_eq!(holder(&step), Some(("a", 0)));
        assert_eq!(spec.acquire_time, Some(MicroTime(Timestamp::UNIX_EPOCH)), "renewing is not acquiring");
        assert_eq!(spec.renew_time, Some(MicroTime(utc)));
    }

    #[test]
    fn another_takes_over_when_nothing_was_renewed_for_the_whole_time_by_its_own_clock() {
        let (mut seen, start, utc) = (Seen::default(), Instant::now(), Timestamp::now());
        let seconds = |number| start + Duration::from_secs(number);
        // The lease is years old by its own words: that says nothing.
        assert_eq!(seen.decide("b", Some(&lease("a", "1", 4)), TIMES, seconds(0), utc), Step::Wait);
        assert_eq!(seen.decide("b", Some(&lease("a", "2", 4)), TIMES, seconds(14), utc), Step::Wait);
        assert_eq!(seen.decide("b", Some(&lease("a", "2", 4)), TIMES, seconds(29), utc), Step::Wait);
        let step = seen.decide("b", Some(&lease("a", "2", 4)), TIMES, seconds(30), utc);
        assert_eq!(holder(&step), Some(("b", 5)));
    }

    #[test]
    fn the_holder_stops_before_anybody_can_take_over() {
        for duration in [3, 15, 60].map(Duration::from_secs) {
            let times = Times { duration };
            assert!(times.deadline() + times.request() <= times.duration);
            assert!(times.retry() + 2 * times.request() <= times.deadline());
        }
    }

    #[test]
    fn a_lease_given_up_is_taken_at_once() {
        let (mut seen, now, utc) = (Seen::default(), Instant::now(), Timestamp::now());
        let mut left = lease("a", "1", 1);
        left.spec = left.spec.as_ref().map(given_up);
        assert_eq!(holder(&seen.decide("b", Some(&left), TIMES, now, utc)), Some(("b", 2)));
    }

    #[test]
    fn what_the_holder_promised_counts() {
        let (mut seen, now, utc) = (Seen::default(), Instant::now(), Timestamp::now());
        let mut long = lease("a", "1", 1);
        long.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
        seen.decide("b", Some(&long), TIMES, now, utc);
        assert_eq!(seen.decide("b", Some(&long), TIMES, now + Duration::from_secs(59), utc), Step::Wait);
        assert!(holder(&seen.decide("b", Some(&long), TIMES, now + Duration::from_secs(61), utc)).is_some());
    }
}
