//! Kernel tests of the data path: real interfaces, real programs, bytes and counts compared.
//!
//! They need root, the built kernel programs, `ip`, `tc` and `tcpdump`, so they run by `cargo xtask test --kernel` only.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod crowd;
mod harness;
mod packets;

mod bytes;
mod harmless;
mod headers;
mod large;
mod limits;
mod others;
mod ring;
mod signals;
mod take_over;
mod vlan;
