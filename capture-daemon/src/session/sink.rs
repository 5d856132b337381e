//! Where a tap's blocks go: into the run's files, as long as its limits allow. Runs in the consumer thread.

use std::{sync::Arc, time::Instant};

use super::progress::Progress;
use crate::{
    datapath::{BlockSink, Counters, Take},
    pcapng::Statistics,
    storage::{Append, FileStream},
};

/// Which limit a run has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.packets`.
    Packets,
    /// `limits.bytes`.
    Bytes,
}

/// What a tap's files say of its packets.
#[derive(Debug)]
struct Tally {
    /// When the tap began, in ns of UTC.
    start: u64,
    /// What the tap has counted, as last heard.
    counters: Counters,
    /// What of it went into files.
    delivered: u64,
    /// What storage refused.
    refused: u64,
}

impl Tally {
    /// What the tap has counted by now. What was read before the last time, and comes later, says nothing new.
    fn hear(&mut self, counters: &Counters) {
        if counters.total().seen >= self.counters.total().seen {
            self.counters = *counters;
        }
    }

    /// The interface statistics block as of this moment.
    fn read(&mut self, counters: impl Fn() -> Option<Counters>) -> Vec<u8> {
        if let Some(counters) = counters() {
            self.hear(&counters);
        }
        self.block()
    }

    /// The interface statistics block as of what was last heard.
    fn block(&self) -> Vec<u8> {
        let total = self.counters.total();
        // Counters are read one after the other while CPUs count on, or were read a while ago: what was delivered was
        // accepted by then, and what was accepted was received.
        let accepted = total.matched.max(self.delivered + self.refused);
        let now = utc();
        Statistics {
            start: self.start,
            end: now,
            received: total.seen.max(accepted),
            accepted,
            os_drop: total.ring_full,
            delivered: self.delivered,
            sampled_out: total.sampled_out,
            rate_drop: total.rate_limited,
            storage_drop: self.refused,
        }
        .to_bytes(now)
    }

    const fn losses(&self) -> [u64; 3] {
        [
            self.counters.from_pod.ring_full + self.counters.to_pod.ring_full,
            self.counters.from_pod.rate_limited + self.counters.to_pod.rate_limited,
            self.refused,
        ]
    }
}

/// The sink of one tap.
pub(super) struct CaptureSink<C, F> {
    stream: FileStream,
    progress: Arc<Progress>,
    tally: Tally,
    /// Bytes of `stream` that `progress` knows of: the most that it has when it is closed.
    reported_bytes: u64,
    /// The losses that the files already tell of.
    told: [u64; 3],
    /// Reads the tap's counters.
    counters: C,
    on_limit: F,
    done: bool,
}

impl<C: Fn() -> Option<Counters> + Send, F: Fn(Limit) + Send> CaptureSink<C, F> {
    /// A sink that writes to `stream` and calls `on_limit` once when a limit is reached. `counters` reads the tap's.
    pub(super) fn new(stream: FileStream, progress: Arc<Progress>, counters: C, on_limit: F) -> Self {
        let tally = Tally { start: utc(), counters: Counters::default(), delivered: 0, refused: 0 };
        Self { stream, progress, tally, reported_bytes: 0, told: [0; 3], counters, on_limit, done: false }
    }

    #[cold]
    fn limit_reached(&mut self, limit: Limit) -> Take {
        if !self.done {
            self.done = true;
            (self.on_limit)(limit);
        }
        Take::Done
    }

    /// The stream has so many bytes when it is closed now.
    fn report_bytes(&mut self, bytes: u64) {
        self.progress.count_bytes(self.reported_bytes, bytes);
        self.reported_bytes = bytes;
    }
}

impl<C: Fn() -> Option<Counters> + Send, F: Fn(Limit) + Send> BlockSink for CaptureSink<C, F> {
    fn block(&mut self, block: &[u8]) -> Take {
        if self.done || self.progress.at_packet_limit() {
            return self.limit_reached(Limit::Packets);
        }
        let bytes = self.stream.bytes_with(block);
        if bytes > self.progress.bytes_left() + self.reported_bytes {
            return self.limit_reached(Limit::Bytes);
        }
        match self.stream.append(block, |_| self.tally.read(&self.counters)) {
            Append::Taken => {
                // At once: another tap's stream may take the next block of the run.
                self.report_bytes(bytes);
                self.tally.delivered += 1;
                self.progress.count_packet();
                Take::Taken
            }
            Append::NoBuffer => Take::Busy,
            Append::OverBudget | Append::Failed => {
                self.tally.refused += 1;
                self.progress.count_storage_drop();
                Take::Taken
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        self.stream.tick(now, |_| self.tally.read(&self.counters));
        self.report_bytes(self.stream.bytes_closed());
    }

    fn statistics(&mut self, counters: &Counters) {
        self.tally.hear(counters);
        // A file tells of loss soon after it happened, not only when it is closed.
        if self.tally.losses() != self.told {
            self.told = self.tally.losses();
            let block = self.tally.block();
            self.stream.note(&block, |_| self.tally.read(&self.counters));
        }
    }

    fn finish(mut self: Box<Self>, counters: &Counters) {
        self.tally.hear(counters);
        if self.done {
            // The consumer has thrown them away without showing them here.
            let dealt_with = self.tally.delivered + self.tally.refused;
            self.progress.count_beyond_limit(counters.total().captured.saturating_sub(dealt_with));
        }
        self.report_bytes(self.stream.bytes_closed());
        self.stream.close(self.tally.block());
    }
}

/// Now, in ns of UTC since 1970.
fn utc() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{
        path::PathBuf,
        sync::atomic::{AtomicU32, Ordering::Relaxed},
    };

    use super::*;
    use crate::{
        datapath::Counters,
        pcapng::{FileHeader, Interface, block_length},
        session::progress::{Delivered, UNLIMITED},
        storage::{Rotation, Storage, StorageConfig, StreamSpec},
    };

    /// A data directory that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn storage() -> (Self, Storage) {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let name = format!("podtap-sink-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
            let scratch = Self(std::env::temp_dir().join(name));
            let storage = Storage::open(StorageConfig {
                data_dir: scratch.0.clone(),
                buffer_bytes: 8 << 20,
                writers: 1,
                write_bytes_per_second: None,
                quota_bytes: None,
                namespace_quota_bytes: None,
                max_disk_percent: 100,
            });
            (scratch, storage.unwrap())
        }

        /// The files of the only run, by number.
        fn files(&self) -> Vec<Vec<u8>> {
            let mut files: Vec<_> =
                std::fs::read_dir(self.0.join("shop/web")).unwrap().map(|e| e.unwrap().path()).collect();
            files.sort_by_key(|path| path.to_string_lossy().rsplit_once('_').unwrap().1.to_owned());
            files.iter().map(|path| std::fs::read(path).unwrap()).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn stream(storage: &Storage, file_bytes: u64) -> FileStream {
        let spec = StreamSpec {
            record: "web".into(),
            first_sequence: 0,
            header: FileHeader { interface: Interface::default(), ..FileHeader::default() }.to_bytes(),
            rotation: Rotation { file_bytes, files: None, interval: None },
            closing_bytes: Statistics::MAX_LENGTH,
        };
        storage.stream(&storage.run_dir("shop", "web").unwrap(), spec, |_| ()).unwrap()
    }

    /// A packet block of 1 KiB.
    fn packet() -> Vec<u8> {
        let words = [6, 1024, 0, 0, 0, 1024 - 44, 1024 - 44].map(u32::to_le_bytes);
        let mut block = words.as_flattened().to_vec();
        block.resize(1024 - 16, 0);
        block.extend([2, 0, 4, 0, 1, 0, 0, 0, 0, 0, 0, 0].map(|byte: u8| byte));
        block.extend(1024u32.to_le_bytes());
        block
    }

    fn counted(packets: u64) -> Counters {
        let mut counters = Counters::default();
        (counters.to_pod.seen, counters.to_pod.matched, counters.to_pod.captured) =
            (packets, packets, packets);
        counters
    }

    #[test]
    fn two_taps_of_a_run_keep_its_limit_between_them_to_the_last_block() {
        const LIMIT: u64 = 1 << 20;
        let (scratch, storage) = Scratch::storage();
        let progress = Arc::new(Progress::continuing(Delivered::default(), 0));
        progress.limit(UNLIMITED, LIMIT);
        let sink = || {
            let stream = stream(&storage, u64::MAX);
            Box::new(CaptureSink::new(stream, Arc::clone(&progress), || None, |_| ()))
        };
        let mut sinks = [sink(), sink()];
        // The one has a ring full of packets, the other some, and nobody ticks in between.
        let mut taken = 0;
        let mut next = 0;
        while taken <= 2 * LIMIT / 1024 && sinks[usize::from(next % 4 == 0)].block(&packet()) == Take::Taken {
            (taken, next) = (taken + 1, next + 1);
        }
        for sink in sinks {
            sink.finish(&counted(taken));
        }
        drop(storage);
        let bytes: usize = scratch.files().iter().map(Vec::len).sum();
        assert!(bytes as u64 <= LIMIT, "{bytes}");
        assert!(bytes as u64 > LIMIT - (20 << 10), "{bytes}");
    }

    #[test]
    fn every_file_ends_with_what_was_counted_when_it_was_closed() {
        let (scratch, storage) = Scratch::storage();
        let progress = Arc::new(Progress::continuing(Delivered::default(), 0));
        let seen = Arc::new(AtomicU32::new(0));
        let read = Arc::clone(&seen);
        let counters = move || Some(counted(read.load(Relaxed).into()));
        let mut sink = Box::new(CaptureSink::new(stream(&storage, 256 << 10), progress, counters, |_| ()));
        for number in 1..=1000 {
            seen.store(number + 5, Relaxed);
            assert_eq!(sink.block(&packet()), Take::Taken);
        }
        // Read before the last file was begun, and late.
        sink.statistics(&counted(100));
        sink.finish(&counted(1005));
        drop(storage);
        let (mut files, mut before) = (0, 0);
        for file in scratch.files() {
            let (mut at, mut last) = (0, None);
            while let Some(length) = block_length(&file[at..]) {
                let block = &file[at..at + length];
                match u32::from_le_bytes(block[..4].try_into().unwrap()) {
                    6 => before += 1,
                    5 => last = Some(block.to_vec()),
                    _ => {}
                }
                at += length;
            }
            let last = last.expect("a statistics block");
            // Times take 12 bytes each, after 20 of the block's own.
            let option = |number: usize| {
                let at = 20 + 24 + 12 * number + 4;
                u64::from_le_bytes(last[at..at + 8].try_into().unwrap())
            };
            let [received, accepted, _, delivered] = [0, 1, 2, 3].map(option);
            assert_eq!(delivered, before, "file {files}");
            assert!(
                accepted > delivered && accepted <= delivered + 6 && received == accepted,
                "{accepted} {delivered}"
            );
            files += 1;
        }
        assert!(files >= 4 && before == 1000, "{files} files, {before} packets");
    }
}
