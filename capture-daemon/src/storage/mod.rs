//! Files: buffers, writers, rotation, retention, disk guard, recovery.
//!
//! This module knows files, blocks and bytes, never what they mean: no pods, no captures, no requests.
//!
//! A [`FileStream`] takes finished blocks in the consumer thread and only copies them; everything that touches the
//! disk happens in writer threads. [`layout`] says how blocks become file contents such that whoever copies a file
//! at any moment gets whole blocks.

mod accounts;
mod budget;
mod copy;
mod directory;
mod error;
mod event;
mod file;
mod housekeeping;
mod lane;
pub mod layout;
mod names;
mod node;
mod pool;
mod recovery;
mod remover;
mod run;
mod spec;
mod stream;
mod worker;
mod writer;

pub use error::StorageError;
pub use event::{FileSummary, StorageEvent, StorageFailure};
pub use names::FileName;
pub use node::{Storage, StorageConfig, Usage};
pub use recovery::{FileInfo, Left, Recovered};
pub use run::RunDir;
pub use spec::{Append, Rotation, StreamSpec};
pub use stream::FileStream;
