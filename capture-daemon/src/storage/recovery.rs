//! Files that an agent left open when it died.
//!
//! What a killed agent leaves is whole. After a power loss the end of a file may be zeros, half a block or anything:
//! the file is cut after the last whole block, read from its start.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use rustix::fs::{Advice, fadvise};

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

/// Walks over a file's blocks, cuts off what follows the last whole one, and counts packets.
pub(super) fn recover(file: &File, info: &mut FileInfo) -> io::Result<()> {
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
