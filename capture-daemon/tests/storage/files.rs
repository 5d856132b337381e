//! What is appended, and where it ends up.

use std::{
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use capture_daemon::storage::{Append, Rotation, Storage, StorageEvent};

use crate::support::{
    Dice, Scratch, Taker, UNLIMITED, captures, closing, config, eventually, header, mixed_length, packet,
    parse,
};

#[test]
fn a_quiet_stream_is_in_its_file_within_a_second_without_any_filler() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0.join("data"))).unwrap();
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    let blocks = [packet(1, 108), packet(2, 52), packet(3, 300)];
    for block in &blocks {
        assert_eq!(taker.append(block), Append::Taken);
    }
    // By the stream's own clock, which nothing else on the machine holds up: the writers have it after half a second.
    let start = Instant::now();
    for tick in 0..5 {
        assert_eq!(captures(&taker.directory).len(), 0, "nothing is written for each packet");
        taker.stream.tick(start + tick * Duration::from_millis(100), closing);
    }
    let whole = [header(), blocks.concat()].concat();
    eventually("written", || {
        captures(&taker.directory).first().is_some_and(|file| std::fs::read(file).unwrap() == whole)
    });
    assert_eq!(taker.stream.bytes(), whole.len() as u64);
    eventually("nothing waits, so nothing is held", || storage.usage().buffers_used == 0);

    let closed = taker.close();
    assert_eq!(closed.files(), [[whole, closing(&Default::default())].concat()]);
    assert_eq!(closed.finished(), (closed.files()[0].len() as u64, 3, 0));
    let file = &captures(&closed.directory)[0];
    let mode = |path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(file.as_path()), 0o600);
    assert!(file.ancestors().skip(1).take(3).all(|directory| mode(directory) == 0o700));
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("web-0_20") && name.ends_with("Z_0000.pcapng"), "{name}");
}

#[test]
fn a_flood_of_all_lengths_is_whole_and_in_order() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    for number in 0..60_000 {
        assert_eq!(taker.append(&packet(number, mixed_length(number))), Append::Taken);
    }
    let closed = taker.close();
    let file = closed.files().remove(0);
    let contents = parse(&file);
    assert!(contents.packets.iter().copied().eq(0..60_000));
    assert!(contents.closed && contents.filler < file.len() / 50, "{} of {}", contents.filler, file.len());
    assert_eq!(closed.finished(), (file.len() as u64, 60_000, 0));
    assert_eq!((storage.usage().used, storage.usage().buffers_used), (file.len() as u64, 0));
}

#[test]
fn streams_side_by_side_do_not_mix() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let mut takers: Vec<Taker> =
        (0..20).map(|record| Taker::new(&storage, &format!("pod-{record}"), UNLIMITED)).collect();
    for number in 0..3000 {
        for (record, taker) in takers.iter_mut().enumerate() {
            let number = number * 20 + record as u64;
            assert_eq!(taker.append(&packet(number, mixed_length(number))), Append::Taken);
        }
    }
    for (record, taker) in takers.into_iter().enumerate() {
        assert!(taker.close().packets().into_iter().eq((0..3000).map(|number| number * 20 + record as u64)));
    }
}

#[test]
fn rotation_by_size_loses_nothing_and_no_file_is_too_long() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    for (record, file_bytes, count) in
        [("tiny", 8 << 10, 2000), ("small", 80 << 10, 6000), ("large", 5 << 20, 40_000)]
    {
        let rotation = Rotation { file_bytes, files: None, interval: None };
        let mut taker = Taker::new(&storage, record, rotation);
        let mut dice = Dice(file_bytes);
        for number in 0..count {
            let length = mixed_length(number).min((file_bytes as usize / 3) & !3);
            assert_eq!(taker.append(&packet(number, length)), Append::Taken);
            if dice.below(500) == 0 {
                // What waits goes out at odd moments too.
                taker.stream.tick(Instant::now() + Duration::from_secs(number), closing);
            }
        }
        let said = taker.stream.bytes();
        let closed = taker.close();
        let files = closed.files();
        assert!(files.len() > 10 && closed.packets().into_iter().eq(0..count), "{record}");
        let total: u64 = files.iter().map(|file| file.len() as u64).sum();
        for (number, file) in files.iter().enumerate() {
            assert!(file.len() as u64 <= file_bytes, "{record} {number}: {}", file.len());
            assert!(parse(file).closed, "{record} {number}");
        }
        let average = total / files.len() as u64;
        assert!(average > file_bytes / 2, "{record}: files of {average} bytes");
        assert!((total..total + (16 << 10)).contains(&(said + 256)), "{record}: {said} {total}");
    }
}

#[test]
fn a_packet_larger_than_a_file_may_be_gets_one_of_its_own() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let mut taker =
        Taker::new(&storage, "web-0", Rotation { file_bytes: 4 << 10, files: None, interval: None });
    for number in 0..3 {
        assert_eq!(taker.append(&packet(number, 65_592)), Append::Taken);
    }
    let closed = taker.close();
    assert_eq!((closed.files().len(), closed.packets()), (3, vec![0, 1, 2]));
}

#[test]
fn only_the_newest_files_are_kept() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let rotation = Rotation { file_bytes: 64 << 10, files: Some(3), interval: None };
    let mut taker = Taker::new(&storage, "web-0", rotation);
    for number in 0..20_000 {
        assert_eq!(taker.append(&packet(number, 108)), Append::Taken);
    }
    let closed = taker.close();
    let packets = closed.packets();
    assert_eq!(closed.files().len(), 3);
    assert!(packets.iter().copied().eq(20_000 - packets.len() as u64..20_000), "the newest, without a gap");
    let opened = closed.events.iter().filter(|event| matches!(event, StorageEvent::Opened { .. })).count();
    let removed = closed.events.iter().filter(|event| matches!(event, StorageEvent::Removed { .. })).count();
    assert_eq!(opened, removed + 3);
    let left: u64 = closed.files().iter().map(|file| file.len() as u64).sum();
    assert_eq!(storage.usage().used, left);
}

#[test]
fn a_file_ends_with_its_interval_but_only_when_packets_came() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let rotation = Rotation { interval: Some(Duration::from_secs(60)), ..UNLIMITED };
    let mut taker = Taker::new(&storage, "web-0", rotation);
    let start = Instant::now();
    let mut number = 0;
    for second in 0..600 {
        // Ten minutes; packets in the first three only.
        if second < 180 {
            assert_eq!(taker.append(&packet(number, 108)), Append::Taken);
            number += 1;
        }
        taker.stream.tick(start + Duration::from_secs(second), closing);
    }
    let closed = taker.close();
    let packets: Vec<usize> = closed.files().iter().map(|file| parse(file).packets.len()).collect();
    assert_eq!((packets.iter().sum::<usize>(), packets.len()), (180, 3), "{packets:?}");
    assert!(closed.files().iter().all(|file| parse(file).closed));
}

#[test]
fn without_packets_there_is_no_file_whatever_else_is_appended() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    taker.stream.note(&closing(&Default::default()), closing);
    taker.stream.tick(Instant::now() + Duration::from_secs(5), closing);
    let closed = taker.close();
    assert_eq!((closed.files().len(), closed.finished()), (0, (0, 0, 0)));
}

#[test]
fn a_byte_limit_is_kept_exactly_and_used_well() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    for (record, limit) in [("small", 10_000_u64), ("middle", 100_000), ("large", 3_000_000)] {
        for file_bytes in [u64::MAX, 64 << 10] {
            let rotation = Rotation { file_bytes, files: None, interval: None };
            let mut taker = Taker::new(&storage, &format!("{record}-{file_bytes}"), rotation);
            for number in 0.. {
                let block = packet(number, 108 + 4 * (number as usize % 300));
                if taker.stream.bytes_with(&block) > limit {
                    break;
                }
                assert_eq!(taker.append(&block), Append::Taken);
                if number % 97 == 0 {
                    taker.stream.tick(Instant::now() + Duration::from_secs(number), closing);
                }
            }
            let (bytes, ..) = taker.close().finished();
            assert!(bytes <= limit && bytes + 8192 > limit, "{record} {file_bytes}: {bytes}");
        }
    }
}

#[test]
fn a_stream_that_is_dropped_keeps_what_it_took_and_a_later_one_goes_on_in_the_next_file() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    assert_eq!(taker.append(&packet(1, 108)), Append::Taken);
    drop(taker.stream);
    while !matches!(taker.events.recv(), Ok(StorageEvent::Finished { .. })) {}
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    assert_eq!(taker.append(&packet(2, 108)), Append::Taken);
    let closed = taker.close();
    let contents: Vec<_> = closed.files().iter().map(|file| parse(file)).collect();
    assert_eq!(
        contents.iter().map(|file| (file.closed, file.packets[0])).collect::<Vec<_>>(),
        [(false, 1), (true, 2)]
    );
    assert!(captures(&closed.directory)[1].to_str().unwrap().ends_with("_0001.pcapng"));
}

#[test]
fn streams_of_one_run_at_the_same_time_have_files_of_their_own() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let run = storage.run_dir("shop", "web-0").unwrap();
    let rotation = Rotation { file_bytes: 16 << 10, files: None, interval: None };
    let mut streams: Vec<_> =
        (0..2).map(|_| storage.stream(&run, crate::support::spec(rotation), |_| ()).unwrap()).collect();
    for number in 0..4000_u64 {
        let block = packet(number, 108);
        while streams[(number % 2) as usize].append(&block, closing) != Append::Taken {
            std::thread::yield_now();
        }
    }
    streams.drain(..).for_each(|stream| stream.close(closing(&Default::default())));
    drop(storage); // Writers finish what they were given.
    let files = captures(&run.path());
    let mut packets = Vec::new();
    for file in &files {
        let found = parse(&std::fs::read(file).unwrap()).packets;
        assert!(found.windows(2).all(|pair| pair[1] == pair[0] + 2), "one stream's packets only");
        packets.extend(found);
    }
    packets.sort_unstable();
    assert!(packets.into_iter().eq(0..4000));
}
