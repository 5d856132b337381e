//! Copies taken at any moment are whole.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use capture_daemon::storage::{Append, Rotation, Storage};

use crate::support::{Dice, Scratch, Taker, captures, closing, config, mixed_length, packet, parse};

/// Copies a file as programs do: to its end, in steps of `step` bytes, while it grows.
fn copy(path: &Path, step: usize) -> Option<Vec<u8>> {
    let mut file = File::open(path).ok()?;
    let mut copy = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return Some(copy),
            read => copy.extend_from_slice(&buffer[..read]),
        }
        // Long enough to see fast files grow, not so long that a flood is never caught up with.
        if copy.len() > 24 << 20 {
            return None;
        }
    }
}

/// Writes at rates from a packet now and then to a flood while others copy: for so many seconds, and until there are so
/// many copies, or a minute is over. Returns how many there are.
fn copies_while_writing(directory: &Path, seconds: u64, wanted: u64) -> u64 {
    let storage = Storage::open(config(directory)).unwrap();
    let copies = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for reader in 0..3_u64 {
            let (copies, over, run) = (&copies, &over, storage.run_dir("shop", "web-0").unwrap());
            scope.spawn(move || {
                let mut dice = Dice(reader);
                while !over.load(Relaxed) {
                    let files = captures(&run.path());
                    let Some(newest) = files.last() else { continue };
                    let step = [1000, 4096, 65_536, 1 << 20][dice.below(4) as usize];
                    if let Some(bytes) = copy(newest, step) {
                        let packets = parse(&bytes).packets;
                        assert!(packets.windows(2).all(|pair| pair[1] == pair[0] + 1));
                        copies.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        let rotation = Rotation { file_bytes: 8 << 20, files: Some(4), interval: None };
        let mut taker = Taker::new(&storage, "web-0", rotation);
        let mut dice = Dice(7);
        let mut number = 0;
        let start = Instant::now();
        let mut clock = start;
        let over_at = || Duration::from_secs(if copies.load(Relaxed) < wanted { 60 } else { seconds });
        while start.elapsed() < over_at() {
            let (burst, pause) = [(1, 2000), (5, 1000), (30, 300), (300, 300), (3000, 100), (20_000, 0)]
                [dice.below(6) as usize];
            let quick = dice.below(2) == 0;
            for _ in 0..10 {
                for _ in 0..burst {
                    let length = if quick { 108 } else { mixed_length(number) };
                    assert_eq!(taker.append(&packet(number, length)), Append::Taken);
                    number += 1;
                    if start.elapsed() > over_at() {
                        break;
                    }
                }
                // Time goes faster here, so that there are many flushes.
                clock += Duration::from_millis(300);
                taker.stream.tick(clock, closing);
                thread::sleep(Duration::from_micros(pause));
            }
        }
        over.store(true, Relaxed);
        let closed = taker.close();
        assert_eq!(closed.finished().1, number);
    });
    copies.into_inner()
}

#[test]
fn copies_taken_while_a_file_grows_are_whole() {
    let scratch = Scratch::new();
    let copies = copies_while_writing(&scratch.0, 6, 201);
    assert!(copies > 200, "{copies} copies");
}

#[test]
fn copies_are_whole_in_memory_file_systems_too() {
    let scratch = Scratch::below(Path::new("/dev/shm"));
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let mut taker = Taker::new(&storage, "web-0", crate::support::UNLIMITED);
    let over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let directory = taker.directory.clone();
        scope.spawn(move || {
            while !over.load(Relaxed) {
                if let Some(file) = captures(&directory).first() {
                    parse(&copy(file, 65_536).unwrap_or_else(crate::support::header));
                }
            }
        });
        // Blocks that fit into a page: no way to write others at once there.
        for number in 0..100_000 {
            assert_eq!(taker.append(&packet(number, 108 + 4 * (number as usize % 400))), Append::Taken);
        }
        over.store(true, Relaxed);
    });
    assert!(taker.close().packets().into_iter().eq(0..100_000));
}
