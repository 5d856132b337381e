//! What a stream tells about its files.

use std::{fmt, io};

/// Told by writer threads, in order, through the function given to `Storage::stream`. Two streams of one run tell of
/// theirs by themselves, and each one's rotation may remove the other's files, even open ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageEvent {
    /// A file exists now, and holds the header.
    Opened {
        /// Its name in the run's directory.
        name: String,
        /// Its number.
        sequence: u32,
    },
    /// Something was appended.
    Written {
        /// The file's name.
        name: String,
        /// The file's length in bytes.
        bytes: u64,
        /// Packets in the file.
        packets: u64,
    },
    /// Nothing more comes into this file.
    Closed {
        /// The file's name.
        name: String,
        /// Its length in bytes.
        bytes: u64,
        /// Packets in it.
        packets: u64,
    },
    /// An older file made room for newer ones.
    Removed {
        /// Its name.
        name: String,
        /// Its length in bytes.
        bytes: u64,
    },
    /// The stream takes nothing more. What it had taken is written as far as that is possible.
    Failed {
        /// Why.
        reason: StorageFailure,
    },
    /// The stream is closed and everything of it is in its files. Always the last event.
    Finished {
        /// Bytes in files that this stream wrote, those removed since included.
        bytes: u64,
        /// Packets in these files.
        packets: u64,
        /// Packets that were taken but could not be written.
        lost: u64,
    },
}

/// Why a stream takes nothing more, or a new one should not begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageFailure {
    /// The file system would be filled beyond `max_disk_percent`, or is full.
    DiskFull,
    /// The data directory holds as much as its quota allows.
    Quota,
    /// The runs of the same owner hold as much as their quota allows.
    NamespaceQuota,
    /// Writing failed.
    Io(String),
}

impl StorageFailure {
    pub(super) fn from_io(call: &str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull => Self::DiskFull,
            io::ErrorKind::QuotaExceeded => Self::Quota,
            _ => Self::Io(format!("{call}: {error}")),
        }
    }
}

impl fmt::Display for StorageFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DiskFull => f.write_str("the disk is full, or as full as the agent may make it"),
            Self::Quota => f.write_str("the data directory has reached its quota"),
            Self::NamespaceQuota => {
                f.write_str("the namespace's captures hold as much of the data directory as they may")
            }
            Self::Io(reason) => f.write_str(reason),
        }
    }
}

/// What a file holds when it is about to be closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSummary {
    /// Packets in it.
    pub packets: u64,
}
