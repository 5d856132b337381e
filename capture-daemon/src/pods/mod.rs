//! Which host interface belongs to which pod, and news of interfaces that come, change and go.
//!
//! Nothing here enters a network namespace: the kernel answers over rtnetlink from the host's side.

mod links;
mod place;
mod resolve;
mod watch;

pub use links::{Link, LinkEvent, Links, LinksError, Peer};
pub use place::{Place, PodPlace};
pub use resolve::{HostInterface, PodAddresses, ResolveError, confirm, pod_addresses, resolve};
pub use watch::{PodClaim, PodWatch};
