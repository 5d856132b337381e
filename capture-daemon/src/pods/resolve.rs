//! From what a request says about a pod's place to the host interface that carries its packets.

use std::{net::IpAddr, os::fd::AsFd as _};

use rtnetlink::packet_route::address::AddressAttribute;
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use super::{
    links::{Link, Links, LinksError, Peer},
    place::Place,
};

/// `NSFS_MAGIC` of linux/magic.h: the file system that network namespace files live on.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A pod's host interface, and enough to tell it from another that gets the same index or name later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostInterface {
    /// The link on the host.
    pub link: Link,
    /// Its other end, inside the pod.
    pub peer: Peer,
    /// The interface's name inside the pod, such as `eth0`; empty when the kernel would not tell.
    pub inside: String,
}

/// The addresses of a pod, for the names in its files.
pub type PodAddresses = Vec<IpAddr>;

/// Why a pod has no host interface to tap.
#[derive(Debug, Error)]
pub enum ResolveError {
    /// It is not there yet: worth asking again at the next link event.
    #[error("{0}")]
    NotYet(String),
    /// It is there and must not be tapped.
    #[error("{0}")]
    Forbidden(String),
    /// The kernel could not be asked.
    #[error(transparent)]
    Kernel(#[from] LinksError),
}

/// Finds the host interface of the pod at `place`. Only a veth or netkit link whose peer is in another network
/// namespace is accepted: never a bridge or a physical device, whatever its name.
///
/// # Errors
/// See [`ResolveError`].
pub fn resolve(links: &Links, place: &Place) -> Result<HostInterface, ResolveError> {
    match place {
        Place::Pod(pod) => Err(ResolveError::NotYet(format!(
            "the interface of pod {}/{} is not known",
            pod.namespace, pod.name
        ))),
        Place::Interface(name) => {
            let link = links.named(name).ok_or_else(|| {
                ResolveError::NotYet(format!(
                    "host interface {name:?} does not exist yet; the capture starts when it appears"
                ))
            })?;
            accept(links, link)
        }
        Place::Netns(path) => {
            let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
                ResolveError::NotYet(format!(
                    "network namespace file {} cannot be opened ({error}); the capture starts when it appears",
                    path.display()
                ))
            })?;
            let on_nsfs = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type == NSFS_MAGIC);
            if !on_nsfs {
                // `ip netns add` makes an empty file first and mounts the namespace on it a moment later.
                return Err(ResolveError::NotYet(format!(
                    "{} is not a network namespace file; name one such as /var/run/netns/NAME",
                    path.display()
                )));
            }
            let leading_there = match links.namespace_id(file.as_fd())? {
                Some(id) => links.into_namespace(id),
                None => Vec::new(),
            };
            let mut candidates =
                leading_there.into_iter().filter(|link| is_pair(&link.kind)).map(|link| accept(links, link));
            let first = candidates.next().ok_or_else(|| {
                ResolveError::NotYet(format!(
                    "no veth leads into network namespace {} yet; the capture starts when one appears",
                    path.display()
                ))
            })?;
            // A pod with several interfaces: the default one is eth0 by convention, else the oldest.
            Ok(candidates
                .filter_map(Result::ok)
                .find(|candidate| {
                    candidate.inside == "eth0" && first.as_ref().is_ok_and(|f| f.inside != "eth0")
                })
                .map_or(first, Ok)?)
        }
    }
}

/// Asks the kernel again whether `interface` is still the link it was when it was resolved.
///
/// # Errors
/// [`ResolveError::NotYet`] when it is gone or another link has its index.
pub fn confirm(links: &Links, interface: &HostInterface) -> Result<(), ResolveError> {
    match links.ask(interface.link.index) {
        Ok(now) if now == interface.link => Ok(()),
        _ => Err(ResolveError::NotYet(format!(
            "host interface {} went away while the tap was attached; the capture starts when it comes back",
            interface.link.name
        ))),
    }
}

/// The pod's own unicast addresses, without loopback and link-local ones.
#[must_use]
pub fn pod_addresses(links: &Links, interface: &HostInterface) -> PodAddresses {
    let Ok(messages) = links.addresses_inside(interface.peer.netns) else { return Vec::new() };
    let mut found: PodAddresses = messages
        .iter()
        .filter(|message| message.header.index == interface.peer.index)
        .flat_map(|message| &message.attributes)
        .filter_map(|attribute| match attribute {
            AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(*address),
            _ => None,
        })
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn is_pair(kind: &str) -> bool {
    kind == "veth" || kind == "netkit"
}

fn accept(links: &Links, link: Link) -> Result<HostInterface, ResolveError> {
    let Link { name, kind, .. } = &link;
    if !is_pair(kind) {
        let kind = if kind.is_empty() { "physical device" } else { kind };
        return Err(ResolveError::Forbidden(format!(
            "host interface {name:?} is a {kind}: only the host's end of a pod's veth pair can be captured"
        )));
    }
    let Some(peer) = link.peer else {
        // A pair is born with both ends on the host; its other end moves into the pod a moment later.
        return Err(ResolveError::NotYet(format!(
            "the other end of host interface {name:?} is not in a pod's network namespace; the capture starts when it is"
        )));
    };
    let inside = links.name_inside(peer).unwrap_or_default();
    Ok(HostInterface { link, peer, inside })
}
