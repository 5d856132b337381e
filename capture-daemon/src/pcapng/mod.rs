//! The pcapng blocks that the agent writes itself, and the little it reads of blocks: their lengths.
//!
//! Packets come from the kernel as finished blocks. Everything here is little-endian and follows
//! [draft-ietf-opsawg-pcapng](https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcapng/), sections 3 and 4.

mod encode;
mod filler;
mod header;
mod statistics;
mod walk;

pub use encode::MAX_OPTION;
pub use filler::{FILLER_TYPE, SMALLEST_FILLER, fill, filler};
pub use header::{FileHeader, Interface};
pub use statistics::Statistics;
pub use walk::{block_length, is_packet, is_section_start, whole_block};
