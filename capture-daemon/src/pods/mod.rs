//! Which host interface belongs to which pod, and news of interfaces that come, change and go.
//!
//! Nothing here enters a network namespace: the kernel answers over rtnetlink from the host's side.

mod addresses;
mod cache;
mod cni;
mod links;
mod netns;
mod news;
mod place;
mod questions;
mod resolve;
mod watch;

pub use cache::CniCache;
pub use links::{Link, LinkEvent, Links, LinksError, Peer};
pub use news::{Heard, LinkNews};
pub use place::{Place, PodPlace};
pub use questions::LinkCounters;
pub use resolve::{Finder, HostInterface, PodAddresses, ResolveError, confirm, pod_addresses};
pub use watch::{PodClaim, PodWatch};
