//! Files that an agent left open when it died.
//!
//! What a killed agent leaves is whole. After a power loss the end of a file may be zeros, half a block or anything:
//! the file is cut after the last whole block, read from its start.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::{
    fs::{Advice, Mode, OFlags, fadvise, fstat},
    io::Errno,
};

use super::{FileName, RunDir, StorageError, directory::open_below};
use crate::pcapng::{is_packet, is_section_start, whole_block};

/// Bytes read at once; more than the largest block has.
const WINDOW: usize = 1 << 20;

/// What is known of a capture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name in the run's directory.
    pub name: String,
    /// Its number.
    pub sequence: u32,
    /// Its length in bytes.
    pub bytes: u64,
    /// Packets in it, when they were counted.
    pub packets: Option<u64>,
    /// Bytes that recovery cut off at its end.
    pub cut: u64,
}

/// What became of a file that was to be mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// It is whole, and its packets are counted.
    Whole(FileInfo),
    /// It held no packet, and is removed.
    Empty,
    /// There is none of that name, or not any more.
    Missing,
}

/// A file that an agent left behind when it died, held: what is in it can be counted even when it is deleted meanwhile.
#[derive(Debug)]
pub struct Left {
    run: RunDir,
    file: File,
    info: FileInfo,
}

impl Left {
    /// Opens the capture file of that name; nothing when there is none.
    pub(super) fn open(run: &RunDir, name: &str) -> Result<Option<Self>, StorageError> {
        let Some(FileName { sequence, .. }) = FileName::parse(name) else { return Ok(None) };
        let file = match open_below(run.as_fd(), name, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(run.failed("open", name, error)),
        };
        let bytes = file.metadata().map_err(|error| run.failed("stat", name, error))?.len();
        let info = FileInfo { name: name.to_owned(), sequence, bytes, packets: None, cut: 0 };
        Ok(Some(Self { run: run.clone(), file, info }))
    }

    /// As [`RunDir::recover`]. Of a file that was deleted meanwhile, how much was in it.
    ///
    /// # Errors
    /// When the file cannot be read or cut.
    pub fn recover(self) -> Result<Recovered, StorageError> {
        let Self { run, file, mut info } = self;
        recover(&file, &mut info).map_err(|error| run.failed("recover", &info.name, error))?;
        // Whoever deleted it has given all of its bytes back.
        if fstat(&file).is_ok_and(|status| status.st_nlink > 0) {
            run.account().changed(info.cut, 0);
        }
        if info.packets == Some(0) {
            run.remove_file(&info.name)?;
            return Ok(Recovered::Empty);
        }
        Ok(Recovered::Whole(info))
    }
}

/// Walks over a file's blocks, cuts off what follows the last whole one, and counts packets.
fn recover(file: &File, info: &mut FileInfo) -> io::Result<()> {
    let (end, packets) = walk(file)?;
    info.packets = Some(packets);
    if end < info.bytes {
        file.set_len(end)?;
        (info.cut, info.bytes) = (info.bytes - end, end);
    }
    // It will hardly be read again soon: leave the node's page cache to others.
    let _ = fadvise(file, 0, None, Advice::DontNeed);
    Ok(())
}

/// Where the last whole block ends, and how many packets come before.
fn walk(file: &File) -> io::Result<(u64, u64)> {
    let mut window = vec![0; WINDOW];
    let (mut base, mut packets) = (0, 0);
    loop {
        let held = read_full(file, &mut window, base)?;
        let bytes = &window[..held];
        if base == 0 && !is_section_start(bytes) {
            return Ok((0, 0));
        }
        let mut at = 0;
        while let Some(length) = whole_block(&bytes[at..]) {
            packets += u64::from(is_packet(&bytes[at..]));
            at += length;
        }
        base += at as u64;
        // A block that ended beyond the window is read again from its start; nothing read means damage or the end.
        if at == 0 || held < WINDOW {
            return Ok((base, packets));
        }
    }
}

fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut held = 0;
    while held < buffer.len() {
        match file.read_at(&mut buffer[held..], offset + held as u64) {
            Ok(0) => break,
            Ok(read) => held += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(held)
}
