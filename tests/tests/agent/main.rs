//! The agent as a whole, run on pods that are network namespaces: one program, since linking one takes as long as many
//! a test.
//!
//! Of these tests several run at once, but for those in [`alone`], which come one after the other.

mod alone;
mod captured;
mod changes;
mod changes_in_force;
mod files;
mod interfaces;
mod interfaces_bypass;
mod limits;
mod namespaces;
mod reliability_disk;
mod requests;
mod retention;
mod telemetry;
