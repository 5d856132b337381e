//! A stream's file side: opens, appends, rotates and closes, and tells of it.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed, mpsc::Receiver},
};

use jiff::Timestamp;
use tracing::warn;

use super::{
    FileName, RunDir, StorageError, StorageEvent, StorageFailure, StreamSpec,
    accounts::Account,
    file::{Blocks, Incomplete, OpenFile, header_end},
    lane::{Item, Lane},
    layout::Way,
};

/// The most chunks in one write: 4 MiB.
const GATHERED: usize = 16;

/// A stream's file side; one writer thread at a time has it.
pub(super) struct Worker {
    items: Receiver<Item>,
    /// Taken from `items` too early.
    next: Option<Item>,
    run: RunDir,
    account: Arc<Account>,
    header: Vec<u8>,
    record: String,
    first_sequence: u32,
    keep: Option<u32>,
    file: Option<OpenFile>,
    failure: Option<StorageFailure>,
    bytes: u64,
    packets: u64,
    tell: Box<dyn Fn(StorageEvent) + Send>,
}

impl Worker {
    pub(super) fn new(
        run: &RunDir,
        items: Receiver<Item>,
        header: Vec<u8>,
        spec: &StreamSpec,
        tell: Box<dyn Fn(StorageEvent) + Send>,
    ) -> Self {
        Self {
            items,
            next: None,
            run: run.clone(),
            account: Arc::clone(run.account()),
            header,
            record: spec.record.clone(),
            first_sequence: spec.first_sequence,
            keep: spec.rotation.files,
            file: None,
            failure: None,
            bytes: 0,
            packets: 0,
            tell,
        }
    }

    fn take(&mut self) -> Option<Item> {
        self.next.take().or_else(|| self.items.try_recv().ok())
    }

    /// One write's worth of items; returns how many.
    pub(super) fn serve(&mut self, lane: &Lane) -> usize {
        let mut served = 0;
        while served < GATHERED {
            match self.take() {
                None => break,
                Some(Item::Blocks { blocks, way: Way::Packed, planned }) => {
                    self.append(lane, vec![blocks], Way::Packed, planned);
                    served += 1;
                }
                Some(Item::Blocks { blocks, way: Way::Direct, planned }) => {
                    return served + self.gather(lane, blocks, planned);
                }
                Some(Item::Close { closing, planned }) => {
                    self.close(&closing, planned);
                    served += 1;
                }
                Some(Item::Refused(failure)) => {
                    self.tell_failure(failure);
                    served += 1;
                }
                Some(Item::Finish) => {
                    self.finish(lane);
                    served += 1;
                }
            }
        }
        served
    }

    /// Writes `first` together with what follows it and goes the same way.
    fn gather(&mut self, lane: &Lane, first: Blocks, mut planned: u64) -> usize {
        let mut gathered = Vec::with_capacity(GATHERED);
        gathered.push(first);
        while gathered.len() < GATHERED {
            match self.take() {
                Some(Item::Blocks { blocks, way: Way::Direct, planned: more }) => {
                    planned += more;
                    gathered.push(blocks);
                }
                other => {
                    self.next = other;
                    break;
                }
            }
        }
        let served = gathered.len();
        self.append(lane, gathered, Way::Direct, planned);
        served
    }

    fn append(&mut self, lane: &Lane, mut all: Vec<Blocks>, way: Way, planned: u64) {
        let packets: u64 = all.iter().map(|blocks| blocks.packets).sum();
        let result = self.append_to_file(&mut all, way);
        let (chunks, in_file) = (all.len(), *result.as_ref().unwrap_or(&0));
        drop(all);
        lane.gave_back(chunks);
        let (written, kept) = match result {
            Ok(written) => (written, packets),
            Err(None) => (0, 0),
            Err(Some((written, kept, failure))) => {
                lane.failed.store(true, Relaxed);
                self.fail(failure);
                (written, kept)
            }
        };
        debug_assert!(in_file == 0 || in_file == planned, "planned {planned}, written {in_file}");
        self.account.done(planned, written);
        lane.lose(packets - kept);
        if let Some(file) = &mut self.file
            && kept > 0
        {
            file.packets += kept;
            let event = StorageEvent::Written {
                name: file.name.name.clone(),
                bytes: file.position,
                packets: file.packets,
            };
            (self.tell)(event);
        }
    }

    /// Returns the bytes that files grew by; on failure also the packets that were written all the same. No reason
    /// when the stream had failed before.
    fn append_to_file(
        &mut self,
        all: &mut [Blocks],
        way: Way,
    ) -> Result<u64, Option<(u64, u64, StorageFailure)>> {
        if self.failure.is_some() {
            return Err(None);
        }
        let opened = self.file.is_none();
        if opened {
            self.open().map_err(|failure| Some((0, 0, failure)))?;
        }
        let Some(file) = &mut self.file else { return Err(None) };
        let before = if opened { 0 } else { file.position };
        let result = match way {
            Way::Direct => file.append_direct(all),
            Way::Packed => {
                all.iter().try_for_each(|blocks| file.append_packed(&blocks.chunk[..blocks.length]))
            }
        };
        let written = file.position - before;
        match result {
            Ok(()) => Ok(written),
            Err(Incomplete { call, error, packets }) => {
                Err(Some((written, packets, StorageFailure::from_io(call, &error))))
            }
        }
    }

    fn open(&mut self) -> Result<(), StorageFailure> {
        let failure = |error| match error {
            StorageError::Io { call, error, .. } => StorageFailure::from_io(call, &error),
            other => StorageFailure::Io(other.to_string()),
        };
        let file = loop {
            let sequence = self.run.next_sequence(self.first_sequence).map_err(failure)?;
            let name = FileName::new(&self.record, Timestamp::now(), sequence);
            match OpenFile::create(&self.run, name, &self.header) {
                Ok(file) => break file,
                Err(StorageError::Io { error, .. }) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failure(error)),
            }
        };
        debug_assert_eq!(file.position, header_end(self.header.len()));
        let sequence = file.name.sequence;
        (self.tell)(StorageEvent::Opened { name: file.name.name.clone(), sequence });
        self.file = Some(file);
        if let Some(keep) = self.keep
            && let Err(error) = self.remove_old(sequence, keep)
        {
            // Nothing is lost by it; the quota and the disk guard still hold.
            warn!(%error, directory = %self.run.path().display(), "cannot remove an old capture file");
        }
        Ok(())
    }

    /// Removes the oldest files until only `keep` are left, the one numbered `newest` and later ones excepted.
    fn remove_old(&self, newest: u32, keep: u32) -> Result<(), StorageError> {
        let files = self.run.files()?;
        let surplus = files.len().saturating_sub(keep as usize);
        for file in files.into_iter().take(surplus).filter(|file| file.sequence < newest) {
            // Another stream of the run may have removed it meanwhile, and tells of it.
            if let Some(bytes) = self.run.remove_file(&file.name)? {
                (self.tell)(StorageEvent::Removed { name: file.name, bytes });
            }
        }
        Ok(())
    }

    fn close(&mut self, closing: &[u8], planned: u64) {
        let mut written = 0;
        if let Some(mut file) = self.file.take() {
            let before = file.position;
            if let Err(Incomplete { call, error, .. }) = file.append_packed(closing) {
                let failure = StorageFailure::from_io(call, &error);
                self.fail(failure);
            }
            written = file.position - before;
            self.bytes += file.position;
            self.packets += file.packets;
            let OpenFile { name, position: bytes, packets, .. } = file;
            (self.tell)(StorageEvent::Closed { name: name.name, bytes, packets });
        }
        self.account.done(planned, written);
    }

    fn finish(&mut self, lane: &Lane) {
        self.close(&[], 0);
        lane.lanes.open.fetch_sub(1, Relaxed);
        (self.tell)(StorageEvent::Finished { bytes: self.bytes, packets: self.packets, lost: lane.lost() });
    }

    /// Nothing more can be written.
    fn fail(&mut self, failure: StorageFailure) {
        if self.failure.is_none() {
            self.failure = Some(failure.clone());
            self.tell_failure(failure);
        }
    }

    fn tell_failure(&self, reason: StorageFailure) {
        (self.tell)(StorageEvent::Failed { reason });
    }
}
