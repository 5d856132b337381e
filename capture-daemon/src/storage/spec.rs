//! What a stream is asked to do, and what it answers.

use std::time::Duration;

/// When a stream goes on in a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// No file becomes longer than this, in bytes, unless a single packet does not fit.
    pub file_bytes: u64,
    /// The newest this many files of the run are kept; all if not set.
    pub files: Option<u32>,
    /// A file takes packets for this long, from its first one on; without packets nothing is opened or closed.
    pub interval: Option<Duration>,
}

/// What a stream writes besides the blocks that it is given.
pub struct StreamSpec {
    /// What file names begin with, cut to 200 bytes.
    pub record: String,
    /// Files are numbered from here on, and above those that the run has.
    pub first_sequence: u32,
    /// What every file starts with: the blocks before the first packet.
    pub header: Vec<u8>,
    /// When a new file begins.
    pub rotation: Rotation,
    /// The most bytes of the closing blocks that [`super::FileStream::append`] and the others are given; at most 4,084.
    pub closing_bytes: usize,
}

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Append {
    /// It will be in a file.
    Taken,
    /// There is no buffer now; ask again later.
    NoBuffer,
    /// The node's write cap is reached, and the stream has had its share. The packet is to be counted as dropped.
    OverBudget,
    /// Nothing more will be written. The reason was, or will be, told by an event.
    Failed,
}
