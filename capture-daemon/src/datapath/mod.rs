//! From packets on a host interface to finished pcapng blocks in user space.
//!
//! A [`Tap`] is one loaded program with a ring of its own; a [`Loader`] makes taps; the one [`Consumer`] thread hands
//! the blocks of all rings to their [`BlockSink`]s; a [`Clock`] keeps the taps' time. Knows interfaces and blocks,
//! never pods or files.

mod attach;
mod clock;
mod consumer;
mod control;
mod counters;
mod error;
mod fast_path;
mod loader;
mod object;
mod ring;
mod sys;
mod tap;

pub use attach::AttachMode;
pub use clock::Clock;
pub use consumer::{BlockSink, Consumer, Take};
pub use control::Control;
pub use counters::{Counters, Counting};
pub use error::DatapathError;
pub use loader::Loader;
pub use ring::Ring;
pub use tap::Tap;
