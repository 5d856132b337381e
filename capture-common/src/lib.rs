//! What podtap's kernel programs and its user space agree on: settings, control words, counters, and how a ring
//! record is laid out. Integers only, `repr(C)`, padding spelled out, sizes checked when compiled.

#![no_std]

mod block;
mod counters;
mod settings;

pub use block::{
    BLOCK_OVERHEAD, CLASSES, DATA_OFFSET, EPB_TYPE, FLAG_INBOUND, FLAG_OUTBOUND, LARGEST_CLASS, MAX_CAPTURED,
    RECORD_SLACK, padded,
};
pub use counters::{Direction, DirectionCounters};
pub use settings::{DIRECTION_BOTH, DIRECTION_FROM_POD, DIRECTION_TO_POD, TapControl, TapSettings};
