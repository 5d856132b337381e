//! What podtap's tests, benchmarks and demo are made of: pods as network namespaces on a bridge, the real agent run on
//! manifests, senders that count, and readers that are not podtap's own.
//!
//! Everything here is seen from outside: nothing of the agent's crates is used, so what holds here holds for a user.

pub mod agent;
pub mod attached;
pub mod blocks;
pub mod cluster;
pub mod cni;
pub mod disk;
pub mod fake;
pub mod gateway;
pub mod kubectl;
pub mod manifest;
pub mod memory;
pub mod metrics;
pub mod pods;
pub mod process;
pub mod record;
pub mod redirect;
pub mod relay;
pub mod scratch;
pub mod stalls;
pub mod tools;
pub mod traffic;
