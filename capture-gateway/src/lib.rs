//! podtap's gateway: what the cluster as a whole has to say about captures, said by one unprivileged writer.
//!
//! Agents write a PodCapture per run. The gateway watches those, sums them up in each PacketCapture's status, and
//! looks after the records of nodes that are gone. Captures do not need it: without a gateway, only status stands still.
//!
//! `watch` fills the caches (`captures`, `records`, `rules`, `agents`, `nodes`), `status` says what a PacketCapture's status
//! should be, `board` when it is written, `sweep` what becomes of records whose node is gone, `default_policy` makes the
//! policy that comes along, `lease` says who of several gateways writes at all. `gateway` is the loop that owns it all.

#![forbid(unsafe_code)]

mod agents;
mod board;
mod budget;
mod cache;
mod captures;
pub mod cli;
mod contact;
mod default_policy;
mod gateway;
mod health;
mod http;
mod lease;
pub mod logging;
mod metrics;
mod nodes;
mod records;
mod rules;
mod status;
mod sweep;
mod uid;
mod watch;
mod write;

pub use gateway::{GatewayError, run};
