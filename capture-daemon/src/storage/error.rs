//! What can go wrong outside of a stream.

use std::{io, path::PathBuf};

use thiserror::Error;

/// An operation on the data directory that failed.
#[derive(Debug, Error)]
pub enum StorageError {
    /// Another agent holds the directory.
    #[error("data directory {} is in use by another agent{}: give each agent a directory of its own", .directory.display(), holder(*.pid))]
    InUse {
        /// The data directory.
        directory: PathBuf,
        /// The other agent's process, as it wrote it down itself.
        pid: Option<u32>,
    },
    /// A name that cannot be a directory's.
    #[error("{name:?} cannot be a directory name: {reason}")]
    Name {
        /// The name as it was given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A setting that does not work.
    #[error("{0}")]
    Setting(&'static str),
    /// A file that should be small is not.
    #[error("{0} is longer than {1} bytes")]
    TooLong(String, usize),
    /// A system call failed.
    #[error("cannot {call} {}: {error}", .path.display())]
    Io {
        /// What was tried.
        call: &'static str,
        /// On what, below the data directory unless absolute.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

impl StorageError {
    pub(super) fn io(call: &'static str, path: impl Into<PathBuf>, error: impl Into<io::Error>) -> Self {
        Self::Io { call, path: path.into(), error: error.into() }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}
