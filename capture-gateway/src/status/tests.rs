use capture_api::{Caps, Refusal};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;
use crate::agents::Agents;
use crate::captures::tests::capture;

/// A moment so many seconds after the capture was made.
fn after(capture: &Capture, seconds: i64) -> Timestamp {
    capture.created + SignedDuration::from_secs(seconds)
}

fn web(more: Value) -> Capture {
    let mut spec = json!({"podSelector": {"matchLabels": {"app": "web"}}, "duration": "60s"});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    capture(spec)
}

fn told(capture: &Capture, sums: &Sums, seconds: i64) -> PacketCaptureStatus {
    status(capture, &capture.judge(Ok(Caps::default()), &Agents::default()), sums, after(capture, seconds))
}

/// Type=status/reason of each condition.
fn words(status: &PacketCaptureStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

fn message<'a>(status: &'a PacketCaptureStatus, kind: &str) -> &'a str {
    &find(&status.conditions, kind).unwrap().message
}

#[test]
fn a_capture_goes_from_accepted_over_capturing_to_completed() {
    let mut web = web(json!({}));
    let begun = told(&web, &Sums::default(), 0);
    assert_eq!(
        words(&begun),
        ["Accepted=True/Accepted", "Capturing=False/NoPods", "Completed=False/WindowOpen"]
    );
    assert_eq!(begun.observed_generation, Some(3));
    assert_eq!(
        message(&begun, ACCEPTED),
        "Captures pods with app=web from 2026-11-01T10:00:00Z to 2026-11-01T10:01:00Z."
    );

    web.status = begun;
    let running = Sums { pods: 3, capturing: 1, waiting: 1, pending: 1, packets: 9, ..Sums::default() };
    let captured = told(&web, &running, 10);
    assert_eq!(words(&captured)[1..], ["Capturing=True/Capturing", "Completed=False/WindowOpen"]);
    assert_eq!(
        message(&captured, CAPTURING),
        "2 of 3 pods are captured. 1 pod without a matching packet yet."
    );
    assert_eq!((captured.pods, captured.capturing, captured.packets), (3, 2, 9));
    assert_eq!(find(&captured.conditions, CAPTURING).unwrap().last_transition_time.0, after(&web, 10));
    assert_eq!(find(&captured.conditions, ACCEPTED).unwrap().last_transition_time.0, after(&web, 0));

    web.status = captured;
    let ending =
        Sums { pods: 3, capturing: 1, completed: 2, busy_nodes: vec!["node3".into()], ..Sums::default() };
    let late = told(&web, &ending, 61);
    assert_eq!(words(&late)[1..], ["Capturing=True/Capturing", "Completed=False/RunsUnfinished"]);
    assert!(message(&late, COMPLETED).contains("node3"));

    web.status = late;
    let ended = Sums { pods: 3, completed: 2, failed: 1, packets: 20, ..Sums::default() };
    let over = told(&web, &ended, 62);
    assert_eq!(words(&over)[1..], ["Capturing=False/Ended", "Completed=True/WindowOver"]);
    assert_eq!((over.finished, over.failed, over.packets), (2, 1, 20));
    assert!(message(&over, COMPLETED).contains("1 without success; `kubectl get podcaptures -l"));
}

#[test]
fn a_capture_that_selects_no_pod_says_so_and_still_completes() {
    let web = web(json!({}));
    assert!(
        message(&told(&web, &Sums::default(), 5), CAPTURING)
            .contains("spec.podSelector (app=web) selects none")
    );
    let over = told(&web, &Sums::default(), 60);
    assert_eq!(words(&over)[2], "Completed=True/WindowOver");
    assert!(message(&over, COMPLETED).contains("No pod was captured: spec.podSelector (app=web)"));
}

#[test]
fn a_bad_request_is_not_accepted_and_never_completes() {
    let bad = web(json!({"duration": "1d"}));
    let status = told(&bad, &Sums::default(), 1_000_000);
    assert_eq!(
        words(&status),
        ["Accepted=False/InvalidValue", "Capturing=False/NotAccepted", "Completed=False/NotAccepted"]
    );
    assert!(message(&status, ACCEPTED).contains("a day is 24h"));
}

#[test]
fn a_namespace_that_may_not_capture_is_told_and_its_window_passes() {
    let web = web(json!({}));
    let forbidden = web.judge(Err(Refusal::new("PolicySuspended", "Ask an admin.")), &Agents::default());
    let open = status(&web, &forbidden, &Sums::default(), after(&web, 1));
    assert_eq!(
        words(&open),
        ["Accepted=False/PolicySuspended", "Capturing=False/NotAllowed", "Completed=False/WindowOpen"]
    );
    let over = status(&web, &forbidden, &Sums::default(), after(&web, 60));
    assert_eq!(words(&over)[2], "Completed=True/WindowOver");
    assert!(message(&over, COMPLETED).contains("see the condition Accepted"));
}

#[test]
fn stopped_paused_and_scheduled_are_told() {
    let one = Sums { pods: 1, capturing: 1, ..Sums::default() };
    let stopped = web(json!({"state": "Stopped"}));
    assert_eq!(words(&told(&stopped, &one, 1))[2], "Completed=False/RunsUnfinished");
    let ended = Sums { pods: 1, stopped: 1, ..Sums::default() };
    assert_eq!(words(&told(&stopped, &ended, 1))[1..], ["Capturing=False/Ended", "Completed=True/Stopped"]);

    let paused = Sums { pods: 1, paused: 1, ..Sums::default() };
    assert_eq!(words(&told(&web(json!({"state": "Paused"})), &paused, 1))[1], "Capturing=False/Paused");

    let later = web(json!({"startTime": "2026-11-01T11:00:00Z"}));
    let scheduled = Sums { pods: 1, scheduled: 1, ..Sums::default() };
    assert_eq!(
        words(&told(&later, &scheduled, 1))[1..],
        ["Capturing=False/Scheduled", "Completed=False/Scheduled"]
    );
    assert_eq!(
        words(&told(&later, &Sums { pods: 1, pending: 1, ..Sums::default() }, 3601))[1],
        "Capturing=False/Starting"
    );
}

#[test]
fn runs_that_end_early_are_told_while_the_window_is_open() {
    let web = web(json!({}));
    let limit = Sums { pods: 1, completed: 1, ..Sums::default() };
    assert_eq!(
        words(&told(&web, &limit, 1))[1..],
        ["Capturing=False/RunsEnded", "Completed=False/WindowOpen"]
    );
    let refused = Sums { pods: 2, refused: 2, ..Sums::default() };
    let status = told(&web, &refused, 1);
    assert_eq!((words(&status)[1].as_str(), status.failed), ("Capturing=False/Failed", 2));
}

#[test]
fn what_has_been_told_as_completed_stays_when_policies_change_and_records_go() {
    let mut web = web(json!({}));
    let ended =
        Sums { pods: 2, completed: 1, refused: 1, packets: 20, bytes: 5, dropped: 1, ..Sums::default() };
    web.status = told(&web, &ended, 60);
    let forbidden = web.judge(Err(Refusal::new("NamespaceNotAllowed", "No.")), &Agents::default());
    let later = status(&web, &forbidden, &Sums::default(), after(&web, 90_000));
    assert_eq!(change(&web.status, &later), None);
    // Another request under the same name is another matter: it has another generation.
    web.generation += 1;
    let edited = status(&web, &forbidden, &Sums::default(), after(&web, 90_000));
    assert_eq!(words(&edited)[0], "Accepted=False/NamespaceNotAllowed");
    assert_eq!((edited.pods, edited.packets), (2, 20));
}

#[test]
fn totals_never_fall_but_a_refused_run_may_begin() {
    let mut web = web(json!({}));
    web.status = told(&web, &Sums { pods: 2, completed: 1, refused: 1, packets: 7, ..Sums::default() }, 1);
    let begun = told(&web, &Sums { pods: 2, completed: 1, capturing: 1, packets: 7, ..Sums::default() }, 2);
    assert_eq!((begun.failed, begun.capturing), (0, 1));
    let removed = told(&web, &Sums { pods: 1, capturing: 1, packets: 3, ..Sums::default() }, 2);
    assert_eq!((removed.pods, removed.finished, removed.packets, removed.capturing), (2, 1, 7, 1));
}

#[test]
fn counters_alone_are_told_apart_from_states() {
    let web = web(json!({}));
    let one = told(&web, &Sums { pods: 1, capturing: 1, ..Sums::default() }, 1);
    let more =
        told(&web, &Sums { pods: 1, capturing: 1, packets: 5, bytes: 500, dropped: 1, ..Sums::default() }, 1);
    assert_eq!(change(&one, &one.clone()), None);
    assert_eq!(change(&one, &more), Some(Change::Counters));
    let state = told(&web, &Sums { pods: 1, waiting: 1, packets: 5, ..Sums::default() }, 1);
    assert_eq!(change(&one, &state), Some(Change::State));
}

#[test]
fn the_window_says_when_to_look_again() {
    let later = web(json!({"startTime": "2026-11-01T11:00:00Z"}));
    let judgement = later.judge(Ok(Caps::default()), &Agents::default());
    let edge = |seconds| next_edge(&judgement, later.created, after(&later, seconds));
    assert_eq!(edge(0), Some(after(&later, 3600)));
    assert_eq!(edge(3600), Some(after(&later, 3660)));
    assert_eq!(edge(3660), None);
}

#[test]
fn a_status_stays_small_whatever_is_asked() {
    let names: Vec<String> = (0..1000).map(|number| format!("pod-{number}-{}", "x".repeat(200))).collect();
    let nodes = (0..3).map(|number| format!("{number}{}", "n".repeat(250)).into()).collect();
    let many = web(json!({"podNames": names, "startTime": "2026-11-01T10:00:00Z"}));
    let sums = Sums {
        pods: 5000,
        failed: 5000,
        pending: 1,
        busy_nodes: nodes,
        packets: u64::MAX,
        ..Sums::default()
    };
    for seconds in [1, 100] {
        let size = serde_json::to_vec(&told(&many, &sums, seconds)).unwrap().len();
        assert!(size < 4096, "{size}");
    }
}
