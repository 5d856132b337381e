//! What an agent that died left behind.

use std::fs;

use capture_daemon::{
    pcapng::{is_packet, whole_block},
    storage::{Append, FileInfo, Recovered, Rotation, RunDir, Storage},
};

use crate::support::{
    Dice, Scratch, Taker, UNLIMITED, captures, config, header, mixed_length, packet, parse,
};

const COUNT: u64 = 2000;

fn written(storage: &Storage) -> (RunDir, Vec<u8>, std::path::PathBuf) {
    let mut taker = Taker::new(storage, "web-0", UNLIMITED);
    for number in 0..COUNT {
        assert_eq!(taker.append(&packet(number, mixed_length(number))), Append::Taken);
    }
    let closed = taker.close();
    let path = captures(&closed.directory).remove(0);
    (storage.run_dir("shop", "web-0").unwrap(), fs::read(&path).unwrap(), path)
}

fn recovered(run: &RunDir, name: &str) -> FileInfo {
    match run.recover(name).unwrap() {
        Recovered::Whole(file) => file,
        other => panic!("{other:?}"),
    }
}

fn name(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_whole_file_stays_as_it_is() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let (run, bytes, path) = written(&storage);
    let file = recovered(&run, &name(&path));
    assert_eq!((file.sequence, file.packets, file.cut), (0, Some(COUNT), 0));
    assert_eq!((file.bytes, &file.name), (bytes.len() as u64, &name(&path)));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_damaged_end_is_cut_off_after_the_last_whole_block() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let (run, bytes, path) = written(&storage);
    let mut dice = Dice(3);
    for round in 0..60 {
        let at = header().len() + 200 + dice.below((bytes.len() - header().len() - 200) as u64) as usize;
        let mut damaged = bytes[..at].to_vec();
        match round % 4 {
            0 => {}
            1 => damaged.resize(at + 4096 * (1 + dice.below(500) as usize), 0),
            2 => damaged.extend((0..5000).map(|_| dice.below(256) as u8)),
            _ => {
                // A page in the middle never reached the disk.
                let page = at & !4095;
                damaged = bytes.clone();
                let end = (page + 4096).min(damaged.len());
                damaged[page..end].fill(0);
                if page < header().len() + 108 {
                    continue;
                }
            }
        }
        fs::write(&path, &damaged).unwrap();
        let file = recovered(&run, &name(&path));
        let mended = fs::read(&path).unwrap();
        assert!(damaged.starts_with(&mended));
        let packets = if round % 4 == 3 {
            // Zeros inside of a packet are a packet too.
            let mut at = 0;
            let blocks = std::iter::from_fn(|| {
                let length = whole_block(&mended[at..])?;
                at += length;
                Some(is_packet(&mended[at - length..]))
            });
            let packets = blocks.filter(|&packet| packet).count();
            assert_eq!(at, mended.len());
            packets
        } else {
            let packets = parse(&mended).packets;
            assert!(packets.iter().copied().eq(0..packets.len() as u64));
            packets.len()
        };
        assert_eq!((file.packets, file.bytes), (Some(packets as u64), mended.len() as u64));
        assert_eq!(file.cut, (damaged.len() - mended.len()) as u64);
        // Not more than one block was lost besides the damage.
        assert!(round % 4 == 3 || mended.len() + 65_592 >= at, "{} {at}", mended.len());
    }
}

#[test]
fn what_is_held_is_counted_though_rotation_deletes_it_before_it_is_mended() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let (run, bytes, path) = written(&storage);
    drop((run, storage));
    // Half a block at its end.
    fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let run = storage.run_dir("shop", "web-0").unwrap();
    let left = run.left(&name(&path)).unwrap().unwrap();
    let keep = Rotation { files: Some(1), ..UNLIMITED };
    let mut taker = Taker::of(&storage, &run, keep);
    assert_eq!(taker.append(&packet(COUNT, 100)), Append::Taken);
    let later = taker.close();
    assert!(!path.exists(), "rotation kept the newest only");
    let Recovered::Whole(file) = left.recover().unwrap() else { panic!("it is gone") };
    assert_eq!((file.packets, file.name), (Some(COUNT), name(&path)));
    assert!(file.cut > 0);
    assert!(run.left(&name(&path)).unwrap().is_none());
    // What was cut off a deleted file has not been given back twice.
    assert_eq!(storage.usage().used, fs::metadata(&captures(&later.directory)[0]).unwrap().len());
}

#[test]
fn files_without_packets_go_and_others_are_not_touched() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let run = storage.run_dir("shop", "web-0").unwrap();
    let file = |sequence: u32, bytes: &[u8]| {
        let name = format!("web-0_20261201T101320Z_{sequence:04}.pcapng");
        fs::write(run.path().join(&name), bytes).unwrap();
        name
    };
    let half = &header()[..header().len() / 2];
    let open = [file(0, b""), file(1, half), file(2, &header()), file(3, &[0; 8192])];
    let other = file(4, b"anything");
    for name in &open {
        assert_eq!(run.recover(name).unwrap(), Recovered::Empty);
        assert_eq!(run.recover(name).unwrap(), Recovered::Missing);
    }
    let left: Vec<String> = run.files().unwrap().into_iter().map(|file| file.name).collect();
    assert_eq!(left, [other]);
}
