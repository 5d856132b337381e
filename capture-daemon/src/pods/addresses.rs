//! Which pairs lead to which addresses: found by asking each namespace for its own.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};

use super::links::{Link, Links, LinksError, Peer};

/// How long an answer serves although nothing was heard: addresses come without news of a link.
const FRESH: Duration = Duration::from_secs(1);
/// All namespaces are not asked again sooner than this, whatever happens: it takes 0.1 ms each.
const AT_LEAST: Duration = Duration::from_millis(200);

/// The unicast addresses inside the namespaces that pairs lead to, as they were a moment ago: a guess, which is proven
/// before it is believed.
#[derive(Debug, Default)]
pub(super) struct AddressIndex(Mutex<Option<Reading>>);

#[derive(Debug)]
struct Reading {
    at: Instant,
    changes: u64,
    links: HashMap<IpAddr, Vec<Link>>,
}

impl AddressIndex {
    /// The pairs whose inner end has the address.
    pub(super) fn holders(&self, links: &Links, address: IpAddr) -> Vec<Link> {
        let mut reading = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let serves = reading.as_ref().is_some_and(|reading| {
            let age = reading.at.elapsed();
            age < AT_LEAST || age < FRESH && reading.changes == links.changes()
        });
        if !serves {
            *reading = Some(Reading::of(links));
        }
        reading.as_ref().and_then(|reading| reading.links.get(&address)).cloned().unwrap_or_default()
    }
}

impl Reading {
    fn of(links: &Links) -> Self {
        let changes = links.changes();
        let mut found: HashMap<IpAddr, Vec<Link>> = HashMap::new();
        for link in links.pairs() {
            let Some(peer) = link.peer else { continue };
            // A namespace that is just going away has none.
            for address in inside(links, peer).unwrap_or_default() {
                found.entry(address).or_default().push(link.clone());
            }
        }
        Self { at: Instant::now(), changes, links: found }
    }
}

/// The inner end's own unicast addresses, without loopback and link-local ones.
///
/// # Errors
/// When the kernel does not answer.
pub(super) fn inside(links: &Links, peer: Peer) -> Result<Vec<IpAddr>, LinksError> {
    let messages = links.addresses_inside(peer.netns)?;
    let mut found: Vec<IpAddr> = messages
        .iter()
        .filter(|message| message.header.index == peer.index)
        .filter_map(own)
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The interface's own address: with a point-to-point address (`ip addr add A peer B`) the other attribute is B.
fn own(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(found) => address = Some(*found),
            _ => {}
        }
    }
    address
}
