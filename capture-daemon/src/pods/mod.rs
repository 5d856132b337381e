//! Which host interface belongs to which pod, and news of interfaces that come, change and go.
//!
//! Nothing here enters a network namespace: the kernel answers over rtnetlink from the host's side.

mod links;
mod resolve;

pub use links::{Link, LinkEvent, Links, LinksError, Peer};
pub use resolve::{HostInterface, Place, PodAddresses, ResolveError, confirm, pod_addresses, resolve};
