use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::json;

use super::*;

const UID: &str = "00000000-0000-4000-8000-000000000064";

/// A board with one capture of 60 seconds, and a clock.
struct Bench {
    board: Board,
    records: Records,
    rules: Rules,
    start: Instant,
    created: Timestamp,
}

impl Bench {
    fn new() -> Self {
        let mut rules = Rules::default();
        let policy = json!({"apiVersion": "podtap.dev/v1alpha1", "kind": "CapturePolicy",
            "metadata": {"name": "default"}, "spec": {"namespaceSelector": {}}});
        rules.apply(&serde_json::from_value(policy).unwrap());
        rules.namespaces.insert("team-a".to_owned(), BTreeMap::new());
        let created = "2026-11-01T10:00:00Z".parse().unwrap();
        let (board, records, start) = (Board::default(), Records::default(), Instant::now());
        let mut bench = Self { board, records, rules, start, created };
        bench.apply("1", 1, json!({}));
        bench
    }

    fn apply(&mut self, version: &str, generation: i64, status: serde_json::Value) {
        let object = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
            "metadata": {"name": "web", "namespace": "team-a", "uid": UID, "resourceVersion": version,
                "generation": generation, "creationTimestamp": self.created.to_string()},
            "spec": {"podSelector": {}, "duration": "60s"}, "status": status,
        });
        self.board.apply(serde_json::from_value(object).unwrap(), self.start);
    }

    fn record(&mut self, number: u32, state: &str, packets: u64) {
        let object = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PodCapture",
            "metadata": {"name": "r", "namespace": "team-a", "uid": format!("00000000-0000-4000-8000-{number:012}")},
            "spec": {"podUID": format!("p{number}"), "capture": "web", "requestUID": UID, "node": "n1"},
            "status": {"state": state, "packets": packets},
        });
        let request = self.records.apply(serde_json::from_value(object).unwrap()).unwrap();
        self.board.mark(&request);
    }

    /// What is written so many milliseconds after the start.
    fn write(&mut self, milliseconds: u64) -> Option<Write> {
        let now = self.start + Duration::from_millis(milliseconds);
        let utc = self.created + SignedDuration::from_millis(milliseconds as i64);
        let facts = Facts { records: &self.records, rules: &self.rules };
        self.board.mark_edges(utc);
        self.board.look(&facts, now, utc);
        self.board.next(&facts, utc)
    }

    /// The same, and the write works.
    fn written(&mut self, milliseconds: u64) -> Option<Write> {
        let write = self.write(milliseconds)?;
        self.over(write.clone(), Outcome::Done, milliseconds);
        Some(write)
    }

    fn over(&mut self, write: Write, outcome: Outcome, milliseconds: u64) {
        let version = Some(format!("{}+", write.resource_version));
        self.board.written(write, outcome, version, self.start + Duration::from_millis(milliseconds));
    }
}

#[test]
fn nothing_is_written_when_nothing_has_changed() {
    let mut bench = Bench::new();
    let first = bench.written(0).unwrap();
    assert_eq!((first.change, first.resource_version.as_str()), (Change::State, "1"));
    for milliseconds in (0..59_000).step_by(100) {
        assert!(bench.write(milliseconds).is_none(), "{milliseconds}");
    }
    // What the watch tells of the own write is nothing new.
    bench.apply("1+", 1, serde_json::to_value(&first.status).unwrap());
    bench.board.mark_all(None);
    assert!(bench.write(59_500).is_none());
}

#[test]
fn states_are_written_every_two_seconds_at_most_and_counters_every_ten() {
    let mut bench = Bench::new();
    bench.written(0).unwrap();
    bench.record(1, "Capturing", 1);
    assert!(bench.write(100).is_none() && bench.write(1900).is_none());
    let state = bench.written(2000).unwrap();
    assert_eq!((state.change, state.status.capturing, state.status.packets), (Change::State, 1, 1));
    for second in 3..12 {
        bench.record(1, "Capturing", second);
        assert!(bench.write(second * 1000).is_none(), "{second}");
    }
    let counters = bench.written(12_000).unwrap();
    assert_eq!((counters.change, counters.status.packets), (Change::Counters, 11));
    // A state that changes while counters wait does not wait with them.
    bench.record(1, "Capturing", 20);
    assert!(bench.write(12_500).is_none());
    bench.record(1, "Completed", 21);
    assert_eq!(bench.written(14_600).unwrap().status.finished, 1);
}

#[test]
fn the_window_alone_completes_a_capture() {
    let mut bench = Bench::new();
    bench.written(0).unwrap();
    assert!(bench.write(59_900).is_none());
    let over = bench.written(60_500).unwrap();
    assert!(is_true(&over.status.conditions, COMPLETED));
}

#[test]
fn a_status_is_written_once_at_a_time_and_again_when_it_failed() {
    let mut bench = Bench::new();
    let write = bench.write(0).unwrap();
    bench.record(1, "Capturing", 1);
    assert!(bench.write(3000).is_none(), "one is under way");
    bench.over(write, Outcome::Failed, 3000);
    assert!(bench.write(7900).is_none());
    assert_eq!(bench.written(8000).unwrap().status.capturing, 1);
}

#[test]
fn a_conflict_waits_for_the_watch_and_a_newer_version_is_the_truth() {
    let mut bench = Bench::new();
    let write = bench.write(0).unwrap();
    bench.apply("2", 2, json!({}));
    bench.over(write, Outcome::Conflict, 10);
    assert!(bench.write(900).is_none());
    let write = bench.write(1010).unwrap();
    assert_eq!((write.resource_version.as_str(), write.status.observed_generation), ("2", Some(2)));
    bench.apply("4", 3, serde_json::to_value(&write.status).unwrap());
    bench.over(write, Outcome::Done, 1100);
    let next = bench.write(3100).unwrap();
    assert_eq!((next.resource_version.as_str(), next.status.observed_generation), ("4", Some(3)));
}

#[test]
fn a_gateway_without_the_lease_forgets_its_queue_and_the_next_time_looks_anew() {
    let mut bench = Bench::new();
    let facts = Facts { records: &bench.records, rules: &bench.rules };
    bench.board.look(&facts, bench.start, bench.created);
    assert_eq!(bench.board.waiting(), 1);
    bench.board.stand_down();
    assert!(bench.write(1).is_none());
    bench.board.mark_all(None);
    assert!(bench.write(2).is_some());
}

#[test]
fn captures_are_counted_by_what_their_status_says() {
    let mut bench = Bench::new();
    assert_eq!(bench.board.by_state()[1], ("waiting", 1));
    bench.record(1, "Capturing", 1);
    bench.written(0).unwrap();
    assert_eq!(bench.board.by_state()[2], ("capturing", 1));
    bench.record(1, "Completed", 1);
    bench.written(60_000).unwrap();
    assert_eq!(bench.board.by_state()[3], ("completed", 1));
}

#[test]
fn a_spec_that_takes_too_much_room_is_refused_and_counts_no_longer_when_it_is_gone() {
    let mut bench = Bench::new();
    let object = |number: usize, bytes: usize| {
        let uid = format!("00000000-0000-4000-8000-{number:012}");
        let object = json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
            "metadata": {"name": format!("c{number}"), "namespace": "team-a", "uid": uid,
                "creationTimestamp": bench.created.to_string(), "managedFields": [{"manager": "x".repeat(bytes)}]},
            "spec": {"podNames": ["x".repeat(bytes)]},
        });
        serde_json::from_value::<CaptureObject>(object).unwrap()
    };
    let refused = |board: &Board| {
        let refused =
            |entry: &Entry| entry.capture.spec.as_ref().is_err_and(|refusal| refusal.reason == "TooLarge");
        board.entries.iter().filter(|(_, entry)| refused(entry)).count()
    };
    bench.board.apply(object(1, capture_api::MAX_SPEC), bench.start);
    assert_eq!(refused(&bench.board), 1);
    for number in 2..20 {
        bench.board.apply(object(number, 64 << 10), bench.start);
    }
    // Fifteen of 64 KiB fit a MiB.
    assert_eq!(refused(&bench.board), 1 + 3);
    bench.board.delete(&object(2, 0));
    bench.board.apply(object(19, 64 << 10), bench.start);
    assert_eq!(refused(&bench.board), 1 + 2);
    bench.board.list();
    bench.board.listed();
    for number in 20..35 {
        bench.board.apply(object(number, 64 << 10), bench.start);
    }
    assert_eq!(refused(&bench.board), 0);
}
