use std::fs;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};

use super::*;
use crate::requests::test_dir::TestDir;
use crate::session::wanted::Wanted;

struct Watched {
    dir: TestDir,
    events: Receiver<RequestEvent>,
    handle: Handle,
}

impl Watched {
    /// With these files there from the start, and what they made wanted.
    fn start(files: &[(&str, &str)]) -> (Self, Vec<Wanted>) {
        let dir = TestDir::new();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let (sender, events) = channel();
        let handle =
            start(dir.path(), &Options::default(), move |event| sender.send(event).unwrap_or(())).unwrap();
        let watched = Self { dir, events, handle };
        let mut wanted = Vec::new();
        loop {
            match watched.next() {
                RequestEvent::Wanted(one) => wanted.push(*one),
                RequestEvent::Listed => return (watched, wanted),
                RequestEvent::Gone(key) => panic!("{key:?} gone at the start"),
            }
        }
    }

    fn next(&self) -> RequestEvent {
        self.events.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    fn wanted(&self) -> Wanted {
        match self.next() {
            RequestEvent::Wanted(wanted) => *wanted,
            other => panic!("{other:?}"),
        }
    }

    fn nothing(&self, within: Duration) {
        assert_eq!(self.events.recv_timeout(within), Err(RecvTimeoutError::Timeout));
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn replace(&self, name: &str, text: &str) {
        let temporary = self.dir.path().join(".new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.dir.path().join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).unwrap();
    }
}

fn pod(name: &str, labels: &str, annotations: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{{labels}}}, annotations: \
         {{podtap.dev/interface: veth-{name}{annotations}}}}}}}\n"
    )
}

fn labelled(name: &str, annotations: &str) -> String {
    pod(name, "podtap.dev/capture: \"true\"", annotations)
}

fn capture(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: podtap.dev/v1alpha1, kind: PacketCapture, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n"
    )
}

fn filter(wanted: &Wanted) -> &str {
    &wanted.settings.as_ref().unwrap().filter
}

#[test]
fn what_is_there_at_the_start_is_listed() {
    let files = [
        ("a.yaml", labelled("a", ", podtap.dev/filter: tcp")),
        ("b.yml", pod("b", "app: b", "")),
        ("c.yaml", capture("named", "podNames: [b]")),
        ("d.json", r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"}}"#.to_owned()),
    ];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let (watched, wanted) = Watched::start(&files);
    let mut runs: Vec<_> =
        wanted.iter().map(|one| (one.pod.name.as_str(), one.request.name.as_deref())).collect();
    runs.sort();
    assert_eq!(runs, [("a", None), ("b", Some("named"))]);
    drop(watched);
}

#[test]
fn pods_come_change_and_go() {
    let (watched, wanted) = Watched::start(&[]);
    assert!(wanted.is_empty());
    watched.write("a.yaml", &labelled("a", ", podtap.dev/filter: tcp"));
    let first = watched.wanted();
    assert_eq!(filter(&first), "tcp");

    watched.replace("a.yaml", &labelled("a", ", podtap.dev/filter: udp"));
    let second = watched.wanted();
    assert_eq!(
        (filter(&second), &second.key, second.request.accepted),
        ("udp", &first.key, first.request.accepted)
    );

    watched.write("a.yaml", &pod("a", "", ""));
    assert_eq!(watched.next(), RequestEvent::Gone(first.key.clone()));

    watched.write("a.yaml", &labelled("a", ""));
    let again = watched.wanted();
    assert_eq!(again.key, first.key);
    assert!(again.request.accepted > first.request.accepted);
    watched.remove("a.yaml");
    assert_eq!(watched.next(), RequestEvent::Gone(first.key));
}

/// One that nobody heard being closed is not read before it has settled, however fast the machine is.
#[test]
fn a_file_is_read_when_it_is_closed_and_not_when_it_has_settled() {
    let (watched, _) = Watched::start(&[]);
    let in_time = |number: usize| {
        let begun = Instant::now();
        watched.write(&format!("p{number}.yaml"), &labelled(&format!("p{number}"), ""));
        watched.wanted();
        begun.elapsed() < directory::SETTLE
    };
    assert!((0..10).any(in_time), "each was read late");
}

#[test]
fn pods_that_come_later_join_and_a_removed_capture_ends_all_its_runs() {
    let all = capture("all", "podSelector: {matchLabels: {app: web}}");
    let (watched, _) = Watched::start(&[("all.yaml", &all)]);
    let mut keys = Vec::new();
    for name in ["a", "b"] {
        watched.write(&format!("{name}.yaml"), &pod(name, "app: web", ""));
        let wanted = watched.wanted();
        assert_eq!(wanted.pod.name, name);
        keys.push(wanted.key);
    }
    watched.remove("all.yaml");
    keys.sort();
    assert_eq!([watched.next(), watched.next()], [keys[0].clone(), keys[1].clone()].map(RequestEvent::Gone));
}

#[test]
fn a_half_written_change_is_not_taken_over_and_is_noted() {
    let whole = labelled("a", ", podtap.dev/filter: tcp");
    let (watched, _) = Watched::start(&[("a.yaml", &whole)]);
    watched.write("a.yaml", &whole[..whole.len() / 2]);
    let kept = watched.wanted();
    assert_eq!(filter(&kept), "tcp");
    assert!(kept.notes[0].contains("stays in force"), "{:?}", kept.notes);
    watched.write("a.yaml", "");
    let emptied = watched.wanted();
    assert!(emptied.notes[0].contains("it is empty"), "{:?}", emptied.notes);
    watched.write("a.yaml", &whole);
    let mended = watched.wanted();
    assert!(mended.notes.is_empty());
}

#[test]
fn an_edit_that_makes_an_object_unreadable_does_not_end_it() {
    let whole = format!("{}---\n{}", labelled("a", ""), labelled("b", ""));
    let (watched, _) = Watched::start(&[("a.yaml", &whole)]);
    watched.write("a.yaml", &whole.replacen("name: a", "name: A!", 1));
    for kept in [watched.wanted(), watched.wanted()] {
        assert!(kept.notes[0].contains("metadata.name \"A!\" is no name"), "{:?}", kept.notes);
    }
    // Taking an object out is no mistake, even beside one that is not ours.
    watched.write("a.yaml", &format!("{}---\n{{kind: Service, metadata: {{name: s}}}}", labelled("a", "")));
    let gone = watched.next();
    assert!(matches!(gone, RequestEvent::Gone(_)), "{gone:?}");
    assert!(watched.wanted().notes.is_empty());
}

#[test]
fn a_file_that_is_still_open_is_left_alone_until_it_is_closed() {
    use std::io::Write;
    let (watched, _) = Watched::start(&[]);
    let whole = labelled("a", ", podtap.dev/filter: tcp");
    let (head, tail) = whole.split_at(20);
    let mut file = fs::File::create(watched.dir.path().join("a.yaml")).unwrap();
    file.write_all(head.as_bytes()).unwrap();
    watched.nothing(Duration::from_millis(300));
    file.write_all(tail.as_bytes()).unwrap();
    drop(file);
    assert_eq!(filter(&watched.wanted()), "tcp");
}

#[test]
fn a_bad_value_is_told_with_what_to_write_and_with_the_caps_that_hold_all_the_same() {
    let good = labelled("a", ", podtap.dev/duration: 5m");
    let (watched, _) = Watched::start(&[("a.yaml", &good)]);
    watched.write("b.yaml", &labelled("b", ", podtap.dev/duration: 5 minutes"));
    let refused = watched.wanted();
    let message = refused.settings.unwrap_err().message;
    assert!(message.starts_with("annotation podtap.dev/duration: \"5 minutes\""), "{message}");
    watched.write("a.yaml", &labelled("a", ", podtap.dev/duraton: 6m"));
    let misspelt = watched.wanted();
    assert_eq!(misspelt.caps, Caps::default());
    let message = misspelt.settings.unwrap_err().message;
    assert!(message.contains("did you mean podtap.dev/duration?"), "{message}");
}

#[test]
fn files_that_are_no_manifests_disturb_nobody() {
    let (watched, _) = Watched::start(&[("a.yaml", &labelled("a", ""))]);
    watched.write("bad.yaml", "{{{{");
    watched.write("kind.yaml", "{apiVersion: v1, kind: Secret, metadata: {name: x}}");
    watched.write("twin.yaml", &labelled("a", ", podtap.dev/filter: tcp"));
    std::os::unix::fs::symlink("/etc/passwd", watched.dir.path().join("link.yaml")).unwrap();
    watched.write(
        "escape.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: ../../x, labels: {podtap.dev/capture: \"true\"}}}",
    );
    watched.nothing(Duration::from_millis(1500));
    watched.write("z.yaml", &labelled("z", ""));
    assert_eq!(watched.wanted().pod.name, "z");
}

#[test]
fn many_pods_at_once_are_all_told() {
    let (watched, _) = Watched::start(&[]);
    for number in 0..250 {
        watched.write(&format!("p{number}.yaml"), &labelled(&format!("p{number}"), ""));
    }
    let mut names: Vec<_> = (0..250).map(|_| watched.wanted().pod.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 250);
}

#[test]
fn a_directory_that_was_replaced_is_watched_again() {
    let (watched, _) = Watched::start(&[("a.yaml", &labelled("a", ""))]);
    let away = watched.dir.path().with_extension("away");
    fs::rename(watched.dir.path(), &away).unwrap();
    watched.nothing(Duration::from_millis(1500));
    // Whole when it is there: of files that come one by one, those that were known are missing at first.
    let new = watched.dir.path().with_extension("new");
    fs::create_dir(&new).unwrap();
    for name in ["a", "b"] {
        fs::write(new.join(format!("{name}.yaml")), labelled(name, "")).unwrap();
    }
    fs::rename(new, watched.dir.path()).unwrap();
    assert_eq!(watched.wanted().pod.name, "b");
    fs::remove_dir_all(away).unwrap();
}

#[test]
fn a_missing_directory_is_an_error_that_says_what_to_do() {
    let error = start(Path::new("/nonexistent/podtap"), &Options::default(), |_| ()).unwrap_err();
    assert!(error.to_string().contains("give --pods an existing directory"), "{error}");
}

#[test]
fn dropping_the_handle_ends_the_thread() {
    let (watched, _) = Watched::start(&[]);
    drop(watched.handle);
    assert_eq!(watched.events.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Disconnected));
}
