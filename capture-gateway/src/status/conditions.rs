//! Conditions and their times.
//!
//! See [Kubernetes' API conventions][1]: `lastTransitionTime` is when `status` last changed, whatever the reason said.
//!
//! [1]: https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/api-conventions.md#typical-status-properties

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The most bytes of a message: the API's own limit is 32 KiB, and a status stays small.
const MAX_MESSAGE: usize = 1024;

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Says {
    pub(super) status: bool,
    /// CamelCase, for programs.
    pub(super) reason: String,
    /// For people.
    pub(super) message: String,
}

impl Says {
    pub(super) fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self { status: true, reason: reason.to_owned(), message: message.into() }
    }

    pub(super) fn no(reason: &str, message: impl Into<String>) -> Self {
        Self { status: false, reason: reason.to_owned(), message: message.into() }
    }
}

/// The condition of this type among others.
pub(crate) fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the condition of this type is `True`.
pub(crate) fn is_true(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(|condition| condition.status == "True")
}

/// The condition as it is now, given those before.
pub(super) fn condition(
    before: &[Condition],
    kind: &str,
    says: Says,
    generation: i64,
    now: Timestamp,
) -> Condition {
    let status = if says.status { "True" } else { "False" };
    let since = find(before, kind).filter(|condition| condition.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: says.reason,
        message: cut(says.message),
        observed_generation: Some(generation),
        last_transition_time: since
            .map_or_else(|| Time(whole_seconds(now)), |since| since.last_transition_time.clone()),
    }
}

/// Times of the API have whole seconds.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE - 3).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::new(second, 500_000_000).unwrap()
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let first = condition(&[], "Completed", Says::no("WindowOpen", "a"), 1, at(100));
        assert_eq!(first.last_transition_time.0, Timestamp::from_second(100).unwrap());
        let second =
            condition(std::slice::from_ref(&first), "Completed", Says::no("Ending", "b"), 2, at(200));
        assert_eq!((second.last_transition_time.0.as_second(), second.reason.as_str()), (100, "Ending"));
        assert_eq!((second.message.as_str(), second.observed_generation), ("b", Some(2)));
        let third = condition(&[second], "Completed", Says::yes("WindowOver", "c"), 2, at(300));
        assert_eq!((third.last_transition_time.0.as_second(), third.status.as_str()), (300, "True"));
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let long = condition(&[], "Accepted", Says::no("No", "\u{e9}".repeat(1000)), 1, at(1));
        assert!(long.message.len() <= MAX_MESSAGE && long.message.ends_with("\u{e9}..."));
    }
}
