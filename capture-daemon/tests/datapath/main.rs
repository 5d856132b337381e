//! Kernel tests of the data path: real interfaces, real programs, bytes and counts compared.
//!
//! They need root, the built kernel programs and `ip`, so they run by `cargo xtask test --kernel` only.

mod harness;
mod packets;

mod bytes;
