use capture_api::RunState;
use serde_json::Value;

use super::{super::tests::record, *};

/// A queue, and a server that answers as one does.
struct Bench {
    queue: Queue,
    server: BTreeMap<String, (String, Value, Value)>,
    uids: u32,
    now: Instant,
    steps: Vec<String>,
}

const NAME: &str = "web-12345";

fn name(name: &str) -> Name {
    Name { namespace: "team-a".into(), name: name.into() }
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self::unlisted();
        bench.list();
        bench
    }

    fn unlisted() -> Self {
        let (server, steps) = (BTreeMap::new(), Vec::new());
        Self { queue: Queue::new("node1"), server, uids: 0, now: Instant::now(), steps }
    }

    fn object(&self, name: &str) -> WatchedRecord {
        let (uid, spec, status) = &self.server[name];
        serde_json::from_value(
            json!({"metadata": {"namespace": "team-a", "name": name, "uid": uid}, "spec": spec,
            "status": status}),
        )
        .unwrap()
    }

    fn list(&mut self) {
        self.queue.take(Event::Init, self.now);
        for name in self.server.keys().cloned().collect::<Vec<_>>() {
            self.queue.take(Event::InitApply(self.object(&name)), self.now);
        }
        self.queue.take(Event::InitDone, self.now);
    }

    fn delete(&mut self, name: &str) {
        let object = self.object(name);
        self.server.remove(name);
        self.queue.take(Event::Delete(object), self.now);
    }

    fn publish(&mut self, state: RunState, seen: u64) {
        let mut record = record(NAME, state);
        record.status.as_mut().unwrap().from_pod.seen = seen;
        self.queue.publish(&record, self.now);
    }

    /// Does all that is due now and returns what that was.
    fn work(&mut self) -> Vec<String> {
        while let Some((name, step)) = self.queue.next(self.now, |_, uid| uid == "uid-team-a") {
            if matches!(step, Step::PatchStatus { .. }) {
                self.queue.taken(&name);
            }
            let outcome = self.answer(&name.name, &step);
            self.queue.done(&name, step, outcome, self.now);
            assert!(self.steps.len() < 100, "{:?}", self.steps);
        }
        std::mem::take(&mut self.steps)
    }

    fn answer(&mut self, name: &str, step: &Step) -> Outcome {
        let exists = self.server.contains_key(name);
        self.steps.push(format!("{step:?}").split([' ', '{']).next().unwrap().to_owned());
        match step {
            Step::Create { .. } if exists => Outcome::Conflict,
            Step::Create { object, .. } => {
                self.uids += 1;
                let new = (format!("uid-{}", self.uids), object["spec"].clone(), Value::Null);
                self.server.insert(name.into(), new);
                Outcome::Done(Some(Box::new(self.object(name))))
            }
            _ if !exists => Outcome::Missing,
            Step::Read => Outcome::Done(Some(Box::new(self.object(name)))),
            Step::Patch { patch, .. } | Step::PatchStatus { patch, .. } => {
                let (uid, spec, status) = self.server.get_mut(name).unwrap();
                if patch["metadata"]["uid"] != *uid {
                    return Outcome::Conflict;
                }
                merge(spec, &patch["spec"]);
                merge(status, &patch["status"]);
                Outcome::Done(Some(Box::new(self.object(name))))
            }
            Step::Delete { .. } => {
                self.server.remove(name);
                Outcome::Done(None)
            }
        }
    }

    fn state(&self) -> String {
        self.server[NAME].2["state"].as_str().unwrap_or_default().to_owned()
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else { return };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in patch {
        match value {
            Value::Null => drop(into.as_object_mut().unwrap().remove(key)),
            Value::Object(_) => merge(into.as_object_mut().unwrap().entry(key).or_insert(json!({})), value),
            value => into[key] = value.clone(),
        }
    }
}

#[test]
fn a_record_is_made_then_its_status_is_written_and_then_there_is_nothing_to_do() {
    let mut bench = Bench::new();
    bench.publish(RunState::Pending, 0);
    assert_eq!(bench.work(), ["Create", "PatchStatus"]);
    assert_eq!(bench.queue.due(), None);
    bench.publish(RunState::Pending, 0);
    assert_eq!(bench.queue.due(), None);
}

#[test]
fn states_are_written_at_once_and_counters_after_ten_seconds() {
    let mut bench = Bench::new();
    bench.publish(RunState::Capturing, 1);
    bench.work();
    for seen in 2..10 {
        bench.publish(RunState::Capturing, seen);
        assert_eq!(bench.work(), [""; 0], "{seen}");
        bench.wait(1);
    }
    bench.wait(4);
    assert_eq!(bench.work(), ["PatchStatus"]);
    assert_eq!(bench.server[NAME].2["fromPod"]["seen"], 9);
    bench.publish(RunState::Capturing, 10);
    bench.publish(RunState::Paused, 10);
    assert_eq!(bench.work(), ["PatchStatus"]);
    assert_eq!(bench.state(), "Paused");
}

#[test]
fn counters_of_different_records_are_written_at_different_times() {
    let mut bench = Bench::new();
    for number in 0..20 {
        bench.queue.publish(&record(&format!("web-{number}"), RunState::Capturing), bench.now);
    }
    bench.work();
    for number in 0..20 {
        let mut record = record(&format!("web-{number}"), RunState::Capturing);
        record.status.as_mut().unwrap().packets = 1;
        bench.queue.publish(&record, bench.now);
    }
    let mut due: Vec<_> = bench.queue.entries.values().map(|entry| entry.due.unwrap()).collect();
    due.sort();
    due.dedup();
    assert_eq!(due.len(), 20);
    assert!(due[19] - due[0] > Duration::from_secs(1) && due[19] - bench.now <= Duration::from_secs(12));
}

#[test]
fn a_burst_of_changes_is_one_write() {
    let mut bench = Bench::unlisted();
    for (state, seen) in [(RunState::Pending, 0), (RunState::WaitingForTraffic, 0), (RunState::Capturing, 5)]
    {
        bench.publish(state, seen);
    }
    assert_eq!(bench.work(), [""; 0], "nothing is written before the server's records are known");
    bench.list();
    assert_eq!(bench.work(), ["Create", "PatchStatus"]);
    assert_eq!(bench.state(), "Capturing");
}

#[test]
fn states_come_before_counters() {
    let mut bench = Bench::new();
    bench.publish(RunState::Capturing, 0);
    bench.work();
    bench.publish(RunState::Capturing, 9);
    bench.wait(20);
    bench.queue.publish(&record("other-12345", RunState::Pending), bench.now);
    let (first, _) = bench.queue.next(bench.now, |_, _| true).unwrap();
    assert_eq!(first, name("other-12345"));
}

#[test]
fn an_agent_that_starts_anew_writes_only_what_differs() {
    let mut bench = Bench::new();
    bench.publish(RunState::Completed, 7);
    bench.work();
    let server = bench.server.clone();
    let mut again = Bench::unlisted();
    again.server = server;
    again.publish(RunState::Completed, 7);
    again.list();
    assert_eq!(again.work(), [""; 0]);
    assert!(matches!(again.queue.entries[&name(NAME)].wanted, Wanted::Settled(_)));
    again.publish(RunState::Completed, 7);
    assert_eq!(again.queue.due(), None);
    // Bytes that are counted late, for instance.
    again.publish(RunState::Completed, 8);
    assert_eq!(again.work(), ["Read", "PatchStatus"]);
    assert_eq!(again.server[NAME].2["fromPod"]["seen"], 8);
}

#[test]
fn records_without_a_run_are_removed() {
    let mut bench = Bench::new();
    bench.publish(RunState::Capturing, 0);
    bench.work();
    let mut again = Bench::unlisted();
    again.server = bench.server.clone();
    again.list();
    assert_eq!(again.work(), ["Delete"]);
    assert!(again.server.is_empty() && again.queue.entries.is_empty());
}

#[test]
fn a_deleted_record_is_made_again_unless_its_run_is_over() {
    let mut bench = Bench::new();
    bench.publish(RunState::Capturing, 3);
    bench.work();
    bench.delete(NAME);
    assert_eq!(bench.work(), ["Create", "PatchStatus"]);
    // Noticed by a write, too, and by a list.
    bench.server.clear();
    bench.publish(RunState::Paused, 3);
    assert_eq!(bench.work(), ["PatchStatus", "Create", "PatchStatus"]);
    bench.server.clear();
    bench.list();
    assert_eq!(bench.work(), ["Create", "PatchStatus"]);
    bench.publish(RunState::Stopped, 3);
    bench.work();
    bench.delete(NAME);
    assert_eq!(bench.work(), [""; 0]);
    bench.queue.remove(name(NAME), bench.now);
    bench.work();
    assert!(bench.queue.entries.is_empty());
}

#[test]
fn a_record_is_removed_when_retention_ends() {
    let mut bench = Bench::new();
    bench.publish(RunState::Stopped, 3);
    bench.work();
    bench.queue.remove(name(NAME), bench.now);
    assert_eq!(bench.work(), ["Delete"]);
    assert!(bench.server.is_empty() && bench.queue.entries.is_empty());
    bench.queue.remove(name("unknown"), bench.now);
    assert_eq!(bench.queue.due(), None);
}

#[test]
fn nothing_is_made_in_a_namespace_that_is_another_by_now() {
    let mut bench = Bench::new();
    bench.publish(RunState::Pending, 0);
    assert_eq!(bench.queue.next(bench.now, |_, _| false), None);
    assert!(bench.queue.due().unwrap() > bench.now);
    bench.wait(6);
    assert_eq!(bench.work(), ["Create", "PatchStatus"]);
}

#[test]
fn a_record_of_the_same_name_that_is_not_ours_is_left_alone() {
    let mut bench = Bench::new();
    let foreign = json!({"node": "node2", "podUID": "x"});
    bench.server.insert(NAME.into(), ("uid-x".into(), foreign.clone(), Value::Null));
    bench.publish(RunState::Pending, 0);
    assert_eq!(bench.work(), ["Create", "Read"]);
    assert_eq!(bench.server[NAME].1, foreign);
    assert!(bench.queue.due().unwrap() > bench.now + Duration::from_secs(1));
}

#[test]
fn a_server_that_is_away_or_refuses_is_asked_again_later() {
    let mut bench = Bench::new();
    bench.publish(RunState::Pending, 0);
    let (name, step) = bench.queue.next(bench.now, |_, _| true).unwrap();
    bench.queue.done(&name, step.clone(), Outcome::Away, bench.now);
    assert_eq!(bench.queue.due(), Some(bench.now), "the pause is the whole server's");
    bench.queue.done(&name, step, Outcome::Refused("quota".into()), bench.now);
    let pause = bench.queue.due().unwrap() - bench.now;
    assert!((Duration::from_secs(3)..Duration::from_secs(7)).contains(&pause), "{pause:?}");
    bench.publish(RunState::Paused, 0);
    assert_eq!(bench.queue.due().unwrap() - bench.now, pause);
}

#[test]
fn a_patch_never_reaches_another_object_of_the_same_name() {
    let mut bench = Bench::new();
    bench.publish(RunState::Capturing, 0);
    bench.work();
    bench.server.get_mut(NAME).unwrap().0 = "another".into();
    bench.publish(RunState::Paused, 0);
    assert_eq!(bench.work(), ["PatchStatus"]);
    bench.wait(10);
    assert_eq!(bench.work(), ["Read", "PatchStatus"], "its own after all");
}

/// The record of that name in that namespace.
fn of(namespace: &str, name: &str, state: RunState) -> PodCapture {
    let mut record = record(name, state);
    record.metadata.namespace = Some(namespace.to_owned());
    record
}

impl Bench {
    /// The next step and its outcome.
    fn one(&mut self) -> Option<(Name, Step, Outcome)> {
        let (name, step) = self.queue.next(self.now, |_, _| true)?;
        let outcome = self.answer(&name.name, &step);
        Some((name, step, outcome))
    }

    /// Does one step, and says of which namespace.
    fn turn(&mut self) -> String {
        let (name, step, outcome) = self.one().unwrap();
        self.queue.done(&name, step, outcome, self.now);
        self.steps.clear();
        name.namespace
    }
}

#[test]
fn a_namespace_with_much_to_write_keeps_no_other_waiting() {
    let mut bench = Bench::new();
    for number in 0..500 {
        bench.queue.publish(&of("team-a", &format!("a-{number}"), RunState::Refused), bench.now);
    }
    for _ in 0..10 {
        assert_eq!(bench.turn(), "team-a");
    }
    bench.queue.publish(&of("team-b", "b-0", RunState::Pending), bench.now);
    let turns: Vec<String> = (0..4).map(|_| bench.turn()).collect();
    assert_eq!(turns, ["team-b", "team-a", "team-b", "team-a"]);
    assert_eq!(bench.server["b-0"].2["state"], "Pending");
}

#[test]
fn counters_are_written_also_while_states_never_end() {
    let mut bench = Bench::new();
    bench.publish(RunState::Capturing, 0);
    bench.work();
    bench.publish(RunState::Capturing, 5);
    bench.wait(20);
    for number in 0..100 {
        bench.queue.publish(&of("team-b", &format!("b-{number}"), RunState::Refused), bench.now);
    }
    let turns: Vec<String> = (0..6).map(|_| bench.turn()).collect();
    assert_eq!(turns, ["team-b", "team-b", "team-b", "team-b", "team-a", "team-b"]);
}

#[test]
fn a_write_that_hangs_holds_up_its_own_namespace_only() {
    let mut bench = Bench::new();
    for name in ["a-0", "a-1"] {
        bench.queue.publish(&of("team-a", name, RunState::Pending), bench.now);
    }
    let (hanging, step, _) = bench.one().unwrap();
    assert!(bench.one().is_none() && bench.queue.due().is_none());
    bench.queue.publish(&of("team-b", "b-0", RunState::Pending), bench.now);
    assert_eq!((bench.turn(), bench.turn()), ("team-b".into(), "team-b".into()));
    bench.queue.done(&hanging, step, Outcome::Failed("no answer".into()), bench.now);
    assert_eq!(bench.one().unwrap().0, Name { namespace: "team-a".into(), name: "a-1".into() });
}

#[test]
fn a_namespace_for_which_the_server_fails_waits_longer_and_longer_and_others_go_on() {
    let mut bench = Bench::new();
    for number in 0..50 {
        bench.queue.publish(&of("team-a", &format!("a-{number}"), RunState::Pending), bench.now);
    }
    let mut tries = 0;
    for second in 0..120 {
        if second % 10 == 0 {
            bench.queue.publish(&of("team-b", &format!("b-{second}"), RunState::Pending), bench.now);
        }
        while let Some((name, step)) = bench.queue.next(bench.now, |_, _| true) {
            let failing = name.namespace == "team-a";
            tries += u32::from(failing);
            let failed = failing.then(|| Outcome::Failed("webhook".into()));
            let outcome = failed.unwrap_or_else(|| bench.answer(&name.name, &step));
            bench.queue.done(&name, step, outcome, bench.now);
        }
        bench.steps.clear();
        assert!(bench.server.contains_key(&format!("b-{}", second / 10 * 10)), "{second}");
        bench.wait(1);
    }
    assert!((4..12).contains(&tries), "{tries}");
    // It is over, and so is the waiting, within a minute.
    bench.wait(75);
    while bench.one().map(|(name, step, outcome)| bench.queue.done(&name, step, outcome, bench.now)).is_some()
    {
        bench.steps.clear();
        bench.wait(1);
    }
    assert_eq!(bench.server.keys().filter(|name| name.starts_with("a-")).count(), 50);
}

#[test]
fn a_server_that_is_busy_is_asked_for_another_record_next() {
    let mut bench = Bench::new();
    for name in ["a-0", "a-1"] {
        bench.queue.publish(&of("team-a", name, RunState::Pending), bench.now);
    }
    let (first, step, _) = bench.one().unwrap();
    bench.queue.done(&first, step, Outcome::Busy, bench.now);
    let (next, step, _) = bench.one().unwrap();
    assert_ne!(first, next);
    bench.queue.done(&next, step, Outcome::Busy, bench.now);
    assert!(bench.queue.due().unwrap() > bench.now);
}
