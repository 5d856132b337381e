//! The data directory: whose it is, and that nothing leads out of it.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use capture_daemon::storage::{Append, Storage, StorageError};

use crate::support::{Scratch, Taker, UNLIMITED, config, packet};

#[test]
fn a_second_agent_is_told_who_holds_the_directory() {
    let scratch = Scratch::new();
    let first = Storage::open(config(&scratch.0)).unwrap();
    match Storage::open(config(&scratch.0)).map(drop) {
        Err(error @ StorageError::InUse { .. }) => {
            let message = error.to_string();
            assert!(message.contains(scratch.0.to_str().unwrap()), "{message}");
            assert!(message.contains(&std::process::id().to_string()), "{message}");
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    Storage::open(config(&scratch.0)).unwrap();
}

#[test]
fn a_new_run_takes_no_directory_that_holds_anything() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let run = storage.new_run("shop", "web-0").unwrap().expect("there was none");
    fs::write(run.path().join(".new-run.json"), "{").unwrap();
    assert!(storage.new_run("shop", "web-0").unwrap().is_some(), "an agent died before it wrote run.json");
    run.write_json(b"{\"version\": 1000}").unwrap();
    assert!(storage.new_run("shop", "web-0").unwrap().is_none());
    fs::create_dir_all(scratch.0.join("shop/web-1/lost+found")).unwrap();
    assert!(storage.new_run("shop", "web-1").unwrap().is_none());
    assert_eq!(run.read_json().unwrap().unwrap(), b"{\"version\": 1000}");
}

#[test]
fn names_cannot_lead_out_of_the_data_directory() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0.join("data"))).unwrap();
    for (namespace, record) in
        [("..", "x"), ("shop", "../../x"), ("shop", "/tmp"), ("", "x"), (".status", "x")]
    {
        assert!(
            matches!(storage.run_dir(namespace, record), Err(StorageError::Name { .. })),
            "{namespace}/{record}"
        );
    }
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
}

#[test]
fn a_directory_without_run_json_is_no_run_and_goes_with_what_is_in_it_of_a_run() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    assert_eq!(taker.append(&packet(1, 108)), Append::Taken);
    let directory = taker.close().directory;
    fs::write(directory.join(".new-run.json"), "{").unwrap();
    let of_others = storage.run_dir("shop", "web-1").unwrap();
    fs::write(of_others.path().join("notes"), "mine").unwrap();
    assert_eq!(storage.runs().unwrap().len(), 0);
    let strays = storage.strays().unwrap();
    assert_eq!(strays.iter().map(|run| run.record()).collect::<Vec<_>>(), ["web-0", "web-1"]);
    let age = strays[0].changed().unwrap().elapsed().unwrap();
    assert!(age < std::time::Duration::from_secs(60), "{age:?}");
    assert!(strays[0].clone().remove().is_ok() && !directory.exists());
    assert!(strays[1].clone().remove().is_err());
    assert_eq!(fs::read_to_string(of_others.path().join("notes")).unwrap(), "mine");
}

#[test]
fn links_are_not_followed() {
    let scratch = Scratch::new();
    let (data, elsewhere) = (scratch.0.join("data"), scratch.0.join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("run.json"), "{}").unwrap();
    let storage = Storage::open(config(&data)).unwrap();
    symlink(&elsewhere, data.join("shop")).unwrap();
    fs::create_dir(data.join("real")).unwrap();
    symlink(&elsewhere, data.join("real/web-0")).unwrap();
    assert!(storage.run_dir("shop", "web-0").is_err());
    assert!(storage.run_dir("real", "web-0").is_err());
    assert!(storage.runs().unwrap().is_empty());

    let run = storage.run_dir("real", "web-1").unwrap();
    symlink(elsewhere.join("run.json"), run.path().join("run.json")).unwrap();
    assert!(run.read_json().is_err());
    run.write_json(b"mine").unwrap();
    assert_eq!(fs::read(elsewhere.join("run.json")).unwrap(), b"{}");
    assert_eq!(run.read_json().unwrap().unwrap(), b"mine");
}

#[test]
fn a_directory_that_the_agent_may_not_read_keeps_it_from_nothing() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let scratch = Scratch::new();
    let (foreign, own) = (scratch.0.join("backup"), scratch.0.join("shop/web-0"));
    fs::create_dir_all(foreign.join("of-mine")).unwrap();
    fs::create_dir_all(&own).unwrap();
    fs::write(own.join("run.json"), [0; 1234]).unwrap();
    let readable = |mode| fs::set_permissions(&foreign, fs::Permissions::from_mode(mode)).unwrap();
    readable(0);
    let opened = std::thread::scope(|scope| {
        let open = scope.spawn(|| {
            // On Kubernetes root is without its powers, as this thread is from now on.
            let mut sets = capabilities(None).unwrap();
            sets.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
            set_capabilities(None, sets).unwrap();
            assert!(fs::read_dir(&foreign).is_err());
            let storage = Storage::open(config(&scratch.0))?;
            Ok::<_, StorageError>((storage.usage().used, storage.runs()?.len()))
        });
        open.join().unwrap()
    });
    readable(0o700);
    assert_eq!(opened.map_err(|error| error.to_string()), Ok((1234, 1)));
}

#[test]
fn names_of_253_bytes_work() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let long = "x".repeat(253);
    let run = storage.run_dir(&long, &long).unwrap();
    run.write_json(b"{}").unwrap();
    let mut spec = crate::support::spec(UNLIMITED);
    spec.record = long.clone();
    let mut stream = storage.stream(&run, spec, |_| ()).unwrap();
    assert_eq!(stream.append(&packet(1, 108), crate::support::closing), Append::Taken);
    stream.close(Vec::new());
    // A run holds the directory too.
    drop((storage, run));
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let runs = storage.runs().unwrap();
    assert_eq!((runs[0].namespace(), runs[0].record()), (&long[..], &long[..]));
    assert_eq!(runs[0].files().unwrap().len(), 1);
}

#[test]
fn runs_are_listed_counted_and_removed_with_empty_namespaces() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    for record in ["web-0", "web-1"] {
        let mut taker = Taker::new(&storage, record, UNLIMITED);
        assert_eq!(taker.append(&packet(1, 1000)), Append::Taken);
        taker.close();
        storage.run_dir("shop", record).unwrap().write_json(b"{\"a\": 1}").unwrap();
    }
    storage.run_dir("shop", "no-record").unwrap();
    let mut runs = storage.runs().unwrap();
    assert_eq!(runs.iter().map(|run| run.record()).collect::<Vec<_>>(), ["web-0", "web-1"]);
    let one = runs[0].bytes().unwrap();
    assert!(one > 1000);
    assert_eq!(storage.namespace_bytes("shop").unwrap(), 2 * one);
    assert_eq!(storage.usage().used, 2 * one);
    assert_eq!(storage.namespace_bytes("other").unwrap(), 0);

    runs[0].remove_files().unwrap();
    assert_eq!(
        (runs[0].files().unwrap().len(), runs[0].read_json().unwrap()),
        (0, Some(b"{\"a\": 1}".to_vec()))
    );
    fs::write(runs[1].path().join("notes.txt"), "somebody's").unwrap();
    assert!(runs.pop().unwrap().remove().is_err(), "what the agent did not make stays");
    assert!(scratch.0.join("shop/web-1/notes.txt").exists());
    runs.pop().unwrap().remove().unwrap();
    fs::remove_file(scratch.0.join("shop/web-1/notes.txt")).unwrap();
    storage.run_dir("shop", "web-1").unwrap().remove().unwrap();
    assert_eq!(storage.namespaces().unwrap(), ["shop"]);
    storage.run_dir("shop", "no-record").unwrap().remove().unwrap();
    assert!(storage.namespaces().unwrap().is_empty());
    assert_eq!(storage.usage().used, 0);
}

#[test]
fn what_is_there_counts_from_the_start() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.0.join("shop/web-0")).unwrap();
    fs::write(scratch.0.join("shop/web-0/run.json"), [0; 1234]).unwrap();
    fs::write(scratch.0.join("shop/web-0/.new-run.json"), [0; 100]).unwrap();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let run = storage.runs().unwrap().remove(0);
    run.remove_unfinished().unwrap();
    run.write_json(&[0; 1000]).unwrap();
    assert_eq!(run.bytes().unwrap(), 1000);
    assert!(storage.usage().used <= 1100, "{}", storage.usage().used);
}
