//! podtap's node agent.
//!
//! `requests` says what is wanted, `session` makes one capture of one pod of it, with `pods` (which interface),
//! `datapath` (packets from the kernel) and `storage` (files). `datapath` knows interfaces and blocks, never pods;
//! `storage` knows files and bytes, never what they mean; only `requests` knows where requests come from.

pub mod agent;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod delays;
pub mod filter_command;
pub mod pcapng;
pub mod pods;
pub mod pulse;
pub mod requests;
pub mod session;
pub mod storage;
pub mod telemetry;
mod watched;
