//! One open capture file, as a writer thread sees it.

use std::{
    fs::File,
    io::{self, IoSlice},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{AtFlags, OFlags, RenameFlags, fcntl_setfl},
    io::Errno,
};

use super::{
    FileName, RunDir, StorageError,
    layout::{gap, pack, tail},
    pool::Chunk,
};
use crate::pcapng::{block_length, fill, filler, is_packet};

/// An open file. It ends after a whole block at every moment.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    pub(super) name: FileName,
    /// Its length in bytes.
    pub(super) position: u64,
    /// Packets in it.
    pub(super) packets: u64,
    /// Whether writes go past the page cache now.
    direct: bool,
    /// The file system took the flag but not the write.
    no_direct: bool,
}

/// A write that failed. What was whole of it is in the file.
#[derive(Debug)]
pub(super) struct Incomplete {
    pub(super) call: &'static str,
    pub(super) error: io::Error,
    /// Packets of this write that are in the file all the same.
    pub(super) packets: u64,
}

/// Blocks of a stream in a chunk.
#[derive(Debug)]
pub(super) struct Blocks {
    pub(super) chunk: Chunk,
    /// Bytes of blocks at the chunk's start. Behind them there is room for filler.
    pub(super) length: usize,
    /// Packets in them.
    pub(super) packets: u64,
}

/// How long a file is that holds only `header`.
pub(super) const fn header_end(header: usize) -> u64 {
    (header + header_tail(header)) as u64
}

/// Filler behind a header that would end too close before a page.
const fn header_tail(header: usize) -> usize {
    if gap(header as u64) < crate::pcapng::SMALLEST_FILLER { tail(header) } else { 0 }
}

impl OpenFile {
    /// Makes a file that holds `header` when its name appears.
    pub(super) fn create(run: &RunDir, name: FileName, header: &[u8]) -> Result<Self, StorageError> {
        let (fd, unfinished) = run.create_unfinished(&name.name)?;
        let mut file =
            Self { file: File::from(fd), name, position: 0, packets: 0, direct: false, no_direct: false };
        let made = file.finish_creating(run, &unfinished, header);
        if made.is_err() {
            run.unlink_unfinished(&unfinished);
        }
        made.map(|()| file)
    }

    fn finish_creating(&mut self, run: &RunDir, unfinished: &str, header: &[u8]) -> Result<(), StorageError> {
        let mut header = header.to_vec();
        let start = header.len();
        header.resize(start + header_tail(start), 0);
        if header.len() > start {
            fill(&mut header[start..]);
        }
        self.write(&[IoSlice::new(&header)])
            .map_err(|incomplete| run.failed("write", &self.name.name, incomplete.error))?;
        let (directory, name) = (run.as_fd(), self.name.name.as_str());
        match rustix::fs::renameat_with(directory, unfinished, directory, name, RenameFlags::NOREPLACE) {
            // Not every file system has the flag; a link never replaces anything either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(directory, unfinished, directory, name, AtFlags::empty())
                    .and_then(|()| rustix::fs::unlinkat(directory, unfinished, AtFlags::empty()))
            }
            other => other,
        }
        .map_err(|error| run.failed("create", name, error))
    }

    /// Appends through the page cache, page by page.
    pub(super) fn append_packed(&mut self, blocks: &[u8]) -> Result<(), Incomplete> {
        self.set_direct(false)?;
        let mut result = Ok(());
        let mut packets = 0;
        pack(self.position, blocks, |piece| {
            if result.is_err() {
                return;
            }
            let mut write = |parts: &[IoSlice<'_>]| self.write(parts);
            if piece.before > 0 {
                result = write(&[IoSlice::new(&filler(piece.before))]);
            }
            if result.is_ok() && !piece.blocks.is_empty() {
                result = match piece.after {
                    0 => write(&[IoSlice::new(piece.blocks)]),
                    after => write(&[IoSlice::new(piece.blocks), IoSlice::new(&filler(after))]),
                };
            }
            match &mut result {
                Ok(()) => packets += count(piece.blocks),
                Err(incomplete) => incomplete.packets += packets,
            }
        });
        result
    }

    /// Appends past the page cache, as one write of whole pages.
    pub(super) fn append_direct(&mut self, blocks: &mut [Blocks]) -> Result<(), Incomplete> {
        let before = gap(self.position);
        if before > 0 {
            self.set_direct(false)?;
            self.write(&[IoSlice::new(&filler(before.max(crate::pcapng::SMALLEST_FILLER)))])?;
        }
        for Blocks { chunk, length, .. } in blocks.iter_mut() {
            let filler = tail(*length);
            if filler > 0 {
                fill(&mut chunk[*length..*length + filler]);
            }
        }
        let parts: Vec<IoSlice<'_>> = blocks
            .iter()
            .map(|blocks| IoSlice::new(&blocks.chunk[..blocks.length + tail(blocks.length)]))
            .collect();
        if !self.no_direct && self.set_direct(true).is_ok() {
            match self.write(&parts) {
                Err(incomplete) if incomplete.error.raw_os_error() == Some(libc::EINVAL) => {}
                other => return other,
            }
        }
        // Whoever copies the file in this moment may get half a block; there is no other way on such a file system.
        self.no_direct = true;
        self.set_direct(false)?;
        self.write(&parts)
    }

    fn set_direct(&mut self, direct: bool) -> Result<(), Incomplete> {
        if self.direct != direct {
            fcntl_setfl(&self.file, if direct { OFlags::DIRECT } else { OFlags::empty() })
                .map_err(|error| Incomplete { call: "fcntl", error: error.into(), packets: 0 })?;
            self.direct = direct;
        }
        Ok(())
    }

    /// Appends `parts`, each of whole blocks, in one system call. If not all of it is written, the file is cut to
    /// the last whole block.
    fn write(&mut self, parts: &[IoSlice<'_>]) -> Result<(), Incomplete> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let written = loop {
            match rustix::io::pwritev(&self.file, parts, self.position) {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        let (written, error) = match written {
            Ok(written) if written == total => {
                self.position += total as u64;
                return Ok(());
            }
            // A regular file takes less than it is given when there is no room for more.
            Ok(written) => (written, io::ErrorKind::StorageFull.into()),
            Err(error) => (0, error.into()),
        };
        let (whole, packets) = whole_blocks(parts, written);
        self.position += whole as u64;
        if rustix::fs::fstat(&self.file).is_ok_and(|status| status.st_size as u64 != self.position) {
            let _ = self.file.set_len(self.position);
        }
        Err(Incomplete { call: "write", error, packets })
    }
}

impl From<OpenFile> for OwnedFd {
    fn from(file: OpenFile) -> Self {
        file.file.into()
    }
}

/// Bytes and packets of the whole blocks in the first `written` bytes of `parts`.
fn whole_blocks(parts: &[IoSlice<'_>], mut written: usize) -> (usize, u64) {
    let (mut whole, mut packets) = (0, 0);
    for part in parts {
        let mut rest: &[u8] = part;
        while let Some(length) = block_length(rest).filter(|&length| length <= written.min(rest.len())) {
            packets += u64::from(is_packet(rest));
            whole += length;
            written -= length;
            rest = &rest[length..];
        }
        if !rest.is_empty() {
            break;
        }
    }
    (whole, packets)
}

/// Packets in `blocks`.
fn count(blocks: &[u8]) -> u64 {
    whole_blocks(&[IoSlice::new(blocks)], blocks.len()).1
}
