//! Limits: the quota, the node's write cap, and memory.

use std::{
    sync::mpsc::channel,
    time::{Duration, Instant},
};

use capture_daemon::storage::{Append, Rotation, Storage, StorageEvent, StorageFailure};

use crate::support::{Scratch, Taker, UNLIMITED, closing, config, packet, parse};

#[test]
fn a_quota_stops_streams_with_a_reason_and_deleting_makes_room() {
    let scratch = Scratch::new();
    let quota = 8 << 20;
    let storage = Storage::open(capture_daemon::storage::StorageConfig {
        quota_bytes: Some(quota),
        ..config(&scratch.0)
    })
    .unwrap();
    let mut taken = 0;
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    while taker.append(&packet(taken, 1444)) == Append::Taken {
        taken += 1;
    }
    assert_eq!(taker.append(&packet(taken, 108)), Append::Failed);
    let closed = taker.close();
    let failed = StorageEvent::Failed { reason: StorageFailure::Quota };
    assert_eq!(closed.events.iter().filter(|&event| *event == failed).count(), 1);
    assert!(closed.packets().into_iter().eq(0..taken), "what was taken is written");
    assert!(parse(&closed.files()[0]).closed);
    let used = storage.usage().used;
    assert!((quota - (1 << 20)..quota).contains(&used), "{used}");
    assert_eq!(storage.room(), Err(StorageFailure::Quota));

    storage.run_dir("shop", "web-0").unwrap().remove().unwrap();
    assert_eq!(storage.room(), Ok(()));
    let mut taker = Taker::new(&storage, "web-1", UNLIMITED);
    assert_eq!(taker.append(&packet(1, 108)), Append::Taken);
    assert_eq!(taker.close().packets(), [1]);
}

#[test]
fn an_owners_quota_stops_all_of_its_streams_and_nobody_elses() {
    let scratch = Scratch::new();
    let quota = 4 << 20;
    let settings =
        capture_daemon::storage::StorageConfig { namespace_quota_bytes: Some(quota), ..config(&scratch.0) };
    let storage = Storage::open(settings.clone()).unwrap();
    let [one, two, other] =
        [("web-0", "shop"), ("web-1", "shop"), ("web-2", "bank")].map(|(record, owner)| {
            let run = storage.run_dir("shop", record).unwrap();
            run.write_json(b"{}").unwrap();
            run.charge(owner).unwrap();
            run
        });
    let takers = [&one, &two, &other].map(|run| Taker::of(&storage, run, UNLIMITED));
    let mut taken = [0; 3];
    let [mut first, mut second, mut third] = takers;
    while first.append(&packet(taken[0], 1444)) == Append::Taken {
        taken[0] += 1;
    }
    while second.append(&packet(taken[1], 1444)) == Append::Taken {
        taken[1] += 1;
    }
    for number in 0..2000 {
        assert_eq!(third.append(&packet(number, 1444)), Append::Taken);
    }
    let failed = StorageEvent::Failed { reason: StorageFailure::NamespaceQuota };
    for (taker, taken) in [(first, taken[0]), (second, taken[1])] {
        let closed = taker.close();
        assert_eq!(closed.events.iter().filter(|&event| *event == failed).count(), 1);
        assert!(closed.packets().into_iter().eq(0..taken), "what was taken is written");
    }
    assert_eq!(third.close().packets().len(), 2000);
    assert!((quota - (1 << 20)..=quota + (1 << 18)).contains(&one.owner_bytes()), "{}", one.owner_bytes());
    assert_eq!(one.owner_bytes(), two.owner_bytes());
    assert_eq!(one.owner_bytes(), one.bytes().unwrap() + two.bytes().unwrap());
    assert_eq!(storage.room_in(&two), Err(StorageFailure::NamespaceQuota));
    assert_eq!((storage.room_in(&other), storage.room()), (Ok(()), Ok(())));

    // The next agent finds the same, once it is told whose runs they are.
    let before = one.owner_bytes();
    drop((one, two, other, storage));
    let storage = Storage::open(settings).unwrap();
    let [one, two, other] = <[_; 3]>::try_from(storage.runs().unwrap()).unwrap();
    assert_eq!(storage.room_in(&one), Ok(()), "of nobody yet");
    for (run, owner) in [(&one, "shop"), (&two, "shop"), (&other, "bank")] {
        run.charge(owner).unwrap();
    }
    assert_eq!(one.owner_bytes(), before);
    assert_eq!(storage.room_in(&one), Err(StorageFailure::NamespaceQuota));
    one.remove().unwrap();
    assert_eq!(storage.room_in(&two), Ok(()));
}

#[test]
fn a_ring_of_files_stays_below_a_quota_for_ever() {
    let scratch = Scratch::new();
    let storage = Storage::open(capture_daemon::storage::StorageConfig {
        quota_bytes: Some(12 << 20),
        ..config(&scratch.0)
    })
    .unwrap();
    let rotation = Rotation { file_bytes: 1 << 20, files: Some(3), interval: None };
    let mut taker = Taker::new(&storage, "web-0", rotation);
    for number in 0..40_000 {
        assert_eq!(taker.append(&packet(number, 1444)), Append::Taken, "{number}");
    }
    assert_eq!(taker.close().packets().last(), Some(&39_999));
}

#[test]
fn files_that_somebody_else_removes_make_room_too() {
    let scratch = Scratch::new();
    let storage = Storage::open(capture_daemon::storage::StorageConfig {
        quota_bytes: Some(2 << 20),
        ..config(&scratch.0)
    })
    .unwrap();
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    while taker.append(&packet(1, 1444)) == Append::Taken {}
    let closed = taker.close();
    assert_eq!(storage.room(), Err(StorageFailure::Quota));
    std::fs::remove_dir_all(closed.directory).unwrap();
    crate::support::eventually("room", || storage.room().is_ok());
}

#[test]
fn a_disk_that_is_full_enough_takes_nothing_new() {
    let scratch = Scratch::new();
    let storage =
        Storage::open(capture_daemon::storage::StorageConfig { max_disk_percent: 0, ..config(&scratch.0) })
            .unwrap();
    assert_eq!(storage.room(), Err(StorageFailure::DiskFull));
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    assert_eq!(taker.append(&packet(1, 108)), Append::Failed);
    let closed = taker.close();
    assert_eq!(closed.events[0], StorageEvent::Failed { reason: StorageFailure::DiskFull });
    assert_eq!(closed.files().len(), 0);
}

#[test]
fn over_the_write_cap_the_flood_is_refused_and_the_quiet_stream_is_not() {
    let scratch = Scratch::new();
    let cap = 4_000_000;
    let storage = Storage::open(capture_daemon::storage::StorageConfig {
        write_bytes_per_second: Some(cap),
        ..config(&scratch.0)
    })
    .unwrap();
    let mut flood = Taker::new(&storage, "flood", UNLIMITED);
    let mut quiet = Taker::new(&storage, "quiet", UNLIMITED);
    let (start, mut flooded, mut refused, mut sent) = (Instant::now(), 0, 0, 0);
    // Two seconds by the streams' own clock: of a time that a busy machine makes pass between two ticks, not all is had.
    const TICKS: u32 = 2000;
    for tick in 1..=TICKS {
        for _ in 0..500 {
            match flood.append(&packet(flooded, 1444)) {
                Append::Taken => flooded += 1,
                Append::OverBudget => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(quiet.append(&packet(sent, 108)), Append::Taken);
        sent += 1;
        let now = start + tick * Duration::from_millis(1);
        flood.stream.tick(now, closing);
        quiet.stream.tick(now, closing);
    }
    assert!(refused > 1000, "{refused}");
    let rate = (flooded * 1444 + sent * 108) as f64 * 1e3 / f64::from(TICKS);
    assert!((0.85..1.15).contains(&(rate / cap as f64)), "{rate}");
    assert!(flood.close().packets().into_iter().eq(0..flooded));
    assert!(quiet.close().packets().into_iter().eq(0..sent));
}

#[test]
fn a_stream_whose_writes_hang_leaves_buffers_to_others() {
    let scratch = Scratch::new();
    let storage =
        Storage::open(capture_daemon::storage::StorageConfig { buffer_bytes: 4 << 20, ..config(&scratch.0) })
            .unwrap();
    let run = storage.run_dir("shop", "slow").unwrap();
    let (release, held) = channel::<()>();
    let held = std::sync::Mutex::new(held);
    // The writer that serves this stream is stuck in its first event.
    let mut slow = storage
        .stream(&run, crate::support::spec(UNLIMITED), move |_| {
            let _ = held.lock().unwrap().recv();
        })
        .unwrap();
    let mut others: Vec<Taker> =
        (0..5).map(|record| Taker::new(&storage, &format!("pod-{record}"), UNLIMITED)).collect();
    let mut taken = 0;
    while slow.append(&packet(taken, 1444), closing) == Append::Taken {
        taken += 1;
    }
    let usage = storage.usage();
    assert!(
        usage.buffers_used > usage.buffers / 2 && usage.buffers_used < usage.buffers * 3 / 4,
        "{usage:?}"
    );
    for (record, taker) in others.iter_mut().enumerate() {
        assert_eq!(taker.stream.append(&packet(record as u64, 108), closing), Append::Taken);
    }
    for (record, taker) in others.into_iter().enumerate() {
        assert_eq!(taker.close().packets(), [record as u64]);
    }
    drop(release);
    slow.close(Vec::new());
    drop(storage);
    let file = &crate::support::captures(&run.path())[0];
    assert!(parse(&std::fs::read(file).unwrap()).packets.into_iter().eq(0..taken));
}
