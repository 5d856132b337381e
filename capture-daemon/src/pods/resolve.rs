//! From what a request says about a pod's place to the host interface that carries its packets.

use std::{net::IpAddr, os::fd::AsFd, sync::Arc};

use thiserror::Error;

use super::{
    addresses::{self, AddressIndex},
    cache::CniCache,
    links::{Link, Links, LinksError, Peer},
    netns,
    place::{Place, PodPlace},
    watch::PodWatch,
};

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

/// Finds pods' host interfaces. Only a veth or netkit link whose peer is in another network namespace is accepted:
/// never a bridge or a physical device, whatever its name.
#[derive(Clone, Debug)]
pub struct Finder {
    links: Links,
    cache: CniCache,
    watch: PodWatch,
    index: Arc<AddressIndex>,
}

impl Finder {
    /// Finds with the help of these.
    #[must_use]
    pub fn new(links: Links, cache: CniCache, watch: PodWatch) -> Self {
        Self { links, cache, watch, index: Arc::default() }
    }

    /// The host's links.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Finds the host interface of the pod at `place`.
    ///
    /// # Errors
    /// See [`ResolveError`].
    pub fn resolve(&self, place: &Place) -> Result<HostInterface, ResolveError> {
        match place {
            Place::Interface(name) => {
                let link = self.links.named(name).ok_or_else(|| {
                    ResolveError::NotYet(format!(
                        "host interface {name:?} does not exist yet; the capture starts when it appears"
                    ))
                })?;
                accept(&self.links, link)
            }
            Place::Netns(path) => {
                let file = netns::open_path(path).map_err(|reason| {
                    ResolveError::NotYet(format!("{reason}; the capture starts when it appears"))
                })?;
                let all = self.leading_into(&file)?;
                let mut found = all.into_iter().map(|link| accept(&self.links, link));
                let first = found.next().ok_or_else(|| {
                    ResolveError::NotYet(format!(
                        "no veth leads into network namespace {} yet; the capture starts when one appears",
                        path.display()
                    ))
                })?;
                // A pod with several interfaces: the default one is eth0 by convention, else the oldest.
                let first_is_default = first.as_ref().is_ok_and(|first| first.inside == "eth0");
                let default = found.filter_map(Result::ok).find(|one| one.inside == "eth0");
                default.filter(|_| !first_is_default).map_or(first, Ok)
            }
            Place::Pod(pod) => self.of_pod(pod),
        }
    }

    /// By the cache; where it does not have the pod, by the pod's address.
    fn of_pod(&self, pod: &PodPlace) -> Result<HostInterface, ResolveError> {
        let by_cache = match self.by_cache(pod) {
            Some(Ok(found)) => return Ok(found),
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.by_address(pod).map_err(|by_address| by_cache.unwrap_or(by_address))
    }

    /// By what the CNI left of the pod's newest sandbox; none when it left nothing.
    fn by_cache(&self, pod: &PodPlace) -> Option<Result<HostInterface, ResolveError>> {
        let all = self.cache.of(pod);
        let default = all.first()?;
        let name = pod.interface.as_deref().unwrap_or(&default.interface);
        let attachment = all.iter().find(|one| one.interface == name).unwrap_or(default);
        if self.cache.is_contested(attachment) {
            return Some(not_yet(format!(
                "the CNI's results give network namespace {} to several pods",
                attachment.netns
            )));
        }
        let found = netns::open_name(&attachment.netns)
            .or_else(not_yet)
            .and_then(|file| self.inside(self.leading_into(&file)?, name));
        Some(found.and_then(|found| {
            if pod.interface.is_none() && !pod.addresses.is_empty() {
                let held = addresses::inside(&self.links, found.peer)?;
                // Some workloads take the address off the interface; none has another pod's.
                if !held.is_empty() && !held.iter().any(|address| pod.addresses.contains(address)) {
                    return not_yet(
                        "the interface that the CNI's result names has other addresses than the pod",
                    );
                }
            }
            Ok(found)
        }))
    }

    /// By the address that the pod's status names, which the other end of the pair must hold.
    fn by_address(&self, pod: &PodPlace) -> Result<HostInterface, ResolveError> {
        let mut why = format!("the pod has no network interface on this node yet{LATER}");
        for &address in &pod.addresses {
            match self.with_address(pod, address) {
                Ok(found) => return Ok(found),
                Err(ResolveError::NotYet(reason)) => why = reason,
                Err(error) => return Err(error),
            }
        }
        Err(ResolveError::NotYet(why))
    }

    fn with_address(&self, pod: &PodPlace, address: IpAddr) -> Result<HostInterface, ResolveError> {
        let since = self.watch.since(&pod.uid, address).or_else(not_yet)?;
        if self.cache.gives_to_others(address, pod) {
            return not_yet(format!("the CNI has given address {address} to another pod"));
        }
        let mut holders = self.index.holders(&self.links, address);
        let (Some(link), None) = (holders.pop(), holders.pop()) else {
            return not_yet(format!("address {address} is not that of exactly one interface{LATER}"));
        };
        // Whoever came after the address was heard of may have got it from the pod that had it.
        if self.links.since(&link).is_none_or(|seen| seen > since) {
            return not_yet(format!(
                "the interface with address {address} is newer than the pod's claim to it"
            ));
        }
        let found = accept(&self.links, link)?;
        if !addresses::inside(&self.links, found.peer)?.contains(&address) {
            return not_yet(format!("the interface has lost address {address}"));
        }
        match &pod.interface {
            Some(name) if *name != found.inside => {
                self.inside(self.links.into_namespace(found.peer.netns), name)
            }
            _ => Ok(found),
        }
    }

    /// The pairs that lead into a namespace, oldest inner end first.
    fn leading_into(&self, netns: &impl AsFd) -> Result<Vec<Link>, ResolveError> {
        let mut all = match self.links.namespace_id(netns.as_fd())? {
            Some(id) => self.links.into_namespace(id),
            None => Vec::new(),
        };
        all.retain(Link::is_pair);
        Ok(all)
    }

    /// That one of the pairs into a pod's namespace whose inner end has the name.
    fn inside(&self, all: Vec<Link>, name: &str) -> Result<HostInterface, ResolveError> {
        let all = all.into_iter().filter(Link::is_pair).map(|link| accept(&self.links, link));
        let all = all.collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = all.iter().map(|one| one.inside.clone()).collect();
        all.into_iter().find(|one| one.inside == name).map_or_else(
            || {
                not_yet(match names.is_empty() {
                    true => format!("no veth leads into the pod yet{LATER}"),
                    false => format!(
                        "the pod has no veth {name:?}; those that it has are called {}{LATER}",
                        names.join(", ")
                    ),
                })
            },
            Ok,
        )
    }
}

/// What it waits for.
const LATER: &str = "; the capture starts when it has one";

fn not_yet<T>(why: impl Into<String>) -> Result<T, ResolveError> {
    Err(ResolveError::NotYet(why.into()))
}

/// Asks the kernel again whether `interface` is still the link it was when it was resolved.
///
/// # Errors
/// [`ResolveError::NotYet`] when it is gone or another link has its index.
pub fn confirm(links: &Links, interface: &HostInterface) -> Result<(), ResolveError> {
    match links.ask(interface.link.index) {
        Ok(now) if now == interface.link => Ok(()),
        _ => not_yet(format!(
            "host interface {} went away while the tap was attached; the capture starts when it comes back",
            interface.link.name
        )),
    }
}

/// The pod's own unicast addresses, without loopback and link-local ones.
#[must_use]
pub fn pod_addresses(links: &Links, interface: &HostInterface) -> PodAddresses {
    addresses::inside(links, interface.peer).unwrap_or_default()
}

fn accept(links: &Links, link: Link) -> Result<HostInterface, ResolveError> {
    let Link { name, kind, .. } = &link;
    if !link.is_pair() {
        let kind = if kind.is_empty() { "physical device" } else { kind };
        return Err(ResolveError::Forbidden(format!(
            "host interface {name:?} is a {kind}: only the host's end of a pod's veth pair can be captured"
        )));
    }
    let Some(peer) = link.peer else {
        // A pair is born with both ends on the host; its other end moves into the pod a moment later.
        return not_yet(format!(
            "the other end of host interface {name:?} is not in a pod's network namespace; the capture starts when it is"
        ));
    };
    let inside = links.name_inside(peer).unwrap_or_default();
    Ok(HostInterface { link, peer, inside })
}
