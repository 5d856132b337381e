//! Where requests come from: what is wanted of this node, as whole runs, whoever asked for them and how.
//!
//! A source of objects (the API server, or a directory of manifests) keeps the pods and captures it knows, [`desired`] joins them
//! into wanted runs, and [`changes`] tells the session engine what is new, different or gone. Nothing here knows
//! interfaces' state, files or packets.

mod capture;
pub mod changes;
pub mod desired;
pub mod kubernetes;
pub mod manifests;
pub mod status_dir;
#[cfg(test)]
pub(crate) mod test_dir;
#[cfg(test)]
mod test_wanted;
