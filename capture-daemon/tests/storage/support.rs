//! A data directory of its own for each test, blocks that can be told apart, and a strict reader.

use std::{
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU32, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use capture_daemon::{
    pcapng::{FILLER_TYPE, FileHeader, Interface, Statistics, filler, whole_block},
    storage::{
        Append, FileStream, FileSummary, Rotation, RunDir, Storage, StorageConfig, StorageEvent, StreamSpec,
    },
};

/// A directory that is removed in the end.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::below(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    pub(crate) fn below(parent: &Path) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("storage-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = parent.join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn config(directory: &Path) -> StorageConfig {
    StorageConfig {
        data_dir: directory.to_owned(),
        buffer_bytes: 32 << 20,
        writers: 2,
        write_bytes_per_second: None,
        quota_bytes: None,
        namespace_quota_bytes: None,
        max_disk_percent: 100,
    }
}

pub(crate) fn header() -> Vec<u8> {
    let interface = Interface {
        name: "eth0 (veth1)".into(),
        description: "shop/web-0".into(),
        filter: Some("tcp port 80".into()),
        snap_length: 65_535,
        ..Interface::default()
    };
    FileHeader { application: "podtap".into(), interface, ..FileHeader::default() }.to_bytes()
}

pub(crate) const UNLIMITED: Rotation = Rotation { file_bytes: u64::MAX, files: None, interval: None };

pub(crate) fn spec(rotation: Rotation) -> StreamSpec {
    StreamSpec {
        record: "web-0".into(),
        first_sequence: 0,
        header: header(),
        rotation,
        closing_bytes: Statistics::MAX_LENGTH,
    }
}

/// A packet block of `length` bytes (at least 48) that carries `number`.
pub(crate) fn packet(number: u64, length: usize) -> Vec<u8> {
    let captured = (length - 44) as u32;
    let mut block = Vec::with_capacity(length);
    let words = [6, length as u32, 0, 0x0006_5d00, number as u32, captured, captured];
    words.iter().for_each(|word| block.extend_from_slice(&word.to_le_bytes()));
    let mut data = vec![number as u8; captured as usize];
    let stamp = number.to_le_bytes();
    let stamped = data.len().min(8);
    data[..stamped].copy_from_slice(&stamp[..stamped]);
    block.extend(data);
    block.extend([2_u16, 4].iter().flat_map(|half| half.to_le_bytes()));
    [1, 0, length as u32].iter().for_each(|word: &u32| block.extend_from_slice(&word.to_le_bytes()));
    assert_eq!(block.len(), length);
    block
}

/// Lengths as they come: small ones, full frames, offloaded ones.
pub(crate) fn mixed_length(number: u64) -> usize {
    match number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56 {
        0..=150 => 108,
        151..=240 => 1444,
        241..=250 => 52 + 4 * (number as usize % 1000),
        _ => 65_592,
    }
}

pub(crate) fn closing(summary: &FileSummary) -> Vec<u8> {
    Statistics { delivered: summary.packets, ..Statistics::default() }.to_bytes(1)
}

/// What a whole file holds, without filler.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The numbers of packets, in order.
    pub(crate) packets: Vec<u64>,
    /// Whether the last block is a statistics block.
    pub(crate) closed: bool,
    pub(crate) filler: usize,
}

/// Reads a file that must start with [`header`] and end after a whole block.
pub(crate) fn parse(bytes: &[u8]) -> Contents {
    let header = header();
    assert!(bytes.starts_with(&header), "no header in {} bytes", bytes.len());
    let mut contents = Contents::default();
    let mut at = header.len();
    while at < bytes.len() {
        let rest = &bytes[at..];
        let Some(length) = whole_block(rest) else {
            panic!("damaged at {at} of {}: {:x?}", bytes.len(), &rest[..rest.len().min(16)])
        };
        let kind = u32::from_le_bytes(rest[..4].try_into().unwrap());
        if kind == 6 {
            // The shortest blocks have room for a half number only, and tests use small ones there.
            let mut number = [0; 8];
            let room = (length - 44).min(8);
            number[..room].copy_from_slice(&rest[28..28 + room]);
            let number = u64::from_le_bytes(number);
            assert!(rest[..length] == packet(number, length), "packet {number} at {at} was changed");
            contents.packets.push(number);
        } else if kind == FILLER_TYPE {
            assert!(rest[..length] == filler(length), "filler at {at} was changed");
            contents.filler += length;
        }
        contents.closed = kind == 5;
        at += length;
    }
    contents
}

/// A stream with its events.
pub(crate) struct Taker {
    pub(crate) stream: FileStream,
    pub(crate) events: Receiver<StorageEvent>,
    pub(crate) directory: PathBuf,
}

impl Taker {
    pub(crate) fn new(storage: &Storage, record: &str, rotation: Rotation) -> Self {
        Self::of(storage, &storage.run_dir("shop", record).unwrap(), rotation)
    }

    pub(crate) fn of(storage: &Storage, run: &RunDir, rotation: Rotation) -> Self {
        let (tell, events) = channel();
        let stream = storage.stream(run, spec(rotation), move |event| drop(tell.send(event))).unwrap();
        Self { stream, events, directory: run.path() }
    }

    /// Appends as the consumer does: asks again while there is no buffer.
    pub(crate) fn append(&mut self, block: &[u8]) -> Append {
        loop {
            match self.stream.append(block, closing) {
                Append::NoBuffer => std::thread::sleep(Duration::from_micros(200)),
                other => return other,
            }
        }
    }

    /// Closes the stream and waits until all is written.
    pub(crate) fn close(self) -> Closed {
        self.stream.close(closing(&FileSummary::default()));
        let mut events = Vec::new();
        while !matches!(events.last(), Some(StorageEvent::Finished { .. })) {
            events.push(self.events.recv_timeout(Duration::from_secs(20)).expect("finished in time"));
        }
        Closed { events, directory: self.directory }
    }
}

pub(crate) struct Closed {
    pub(crate) events: Vec<StorageEvent>,
    pub(crate) directory: PathBuf,
}

impl Closed {
    /// The files' contents in the order of their numbers.
    pub(crate) fn files(&self) -> Vec<Vec<u8>> {
        captures(&self.directory).iter().map(|path| std::fs::read(path).unwrap()).collect()
    }

    pub(crate) fn packets(&self) -> Vec<u64> {
        self.files().iter().flat_map(|file| parse(file).packets).collect()
    }

    pub(crate) fn finished(&self) -> (u64, u64, u64) {
        match self.events.last() {
            Some(&StorageEvent::Finished { bytes, packets, lost }) => (bytes, packets, lost),
            other => panic!("{other:?}"),
        }
    }
}

/// Capture files below a directory, by sequence.
pub(crate) fn captures(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "pcapng"))
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with('.'))
        .collect();
    files.sort_by_key(|path| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        name.rsplit_once('_').unwrap().1.parse::<u32>().unwrap()
    });
    files
}

/// Waits until `done`, at most 10 s.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Numbers that look random, the same in each run.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}
