//! The host's links, kept up to date by rtnetlink(7) events of the group `RTNLGRP_LINK`.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, new_connection_with_strict_check, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
    },
};
use thiserror::Error;
use tracing::{error, warn};

/// Where the other end of a paired link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `IFLA_LINK_NETNSID`: the host's number for the peer's network namespace.
    pub netns: i32,
    /// `IFLA_LINK`: the peer's index in that namespace.
    pub index: u32,
}

/// One link of the host's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name, at most 15 bytes.
    pub name: String,
    /// `IFLA_INFO_KIND`, such as `veth` or `bridge`; empty for physical devices.
    pub kind: String,
    /// The other end, when it is in another network namespace.
    pub peer: Option<Peer>,
    /// Hardware address.
    pub address: Vec<u8>,
}

impl Link {
    /// Whether it is one end of a pair, as pods have: veth or netkit.
    #[must_use]
    pub fn is_pair(&self) -> bool {
        self.kind == "veth" || self.kind == "netkit"
    }
}

/// What happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is new, or something of it changed.
    Changed(Link),
    /// It is gone; its index may be given to another link at any time.
    Removed {
        /// The index that it had.
        index: u32,
    },
}

/// Why the links cannot be watched or asked for.
#[derive(Debug, Error)]
pub enum LinksError {
    /// The netlink socket or its thread could not be made.
    #[error("cannot open a netlink route socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel refused or did not answer a question.
    #[error("asking the kernel for {what}: {reason}")]
    Query {
        /// What was asked for.
        what: String,
        /// The kernel's answer.
        reason: String,
    },
}

/// A link, and since when it has been known.
type Known = (Link, Instant);

/// The host's links. Clones share one table.
#[derive(Clone, Debug)]
pub struct Links {
    table: Arc<Mutex<HashMap<u32, Known>>>,
    /// Counts changes of the table.
    changes: Arc<AtomicU64>,
    pub(super) handle: Handle,
    pub(super) runtime: tokio::runtime::Handle,
}

impl Links {
    /// Reads all links, then calls `news` for each event, from a thread of its own, until the process ends.
    ///
    /// # Errors
    /// When netlink is not there or the first reading fails.
    pub fn watch(news: impl Fn(LinkEvent) + Send + 'static) -> Result<Self, LinksError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(LinksError::Socket)?;
        let (questions, handle, mut messages) = {
            let _in_runtime = runtime.enter();
            let (questions, handle, _) = new_connection_with_strict_check().map_err(LinksError::Socket)?;
            let (events, _, messages) =
                new_multicast_connection(&[MulticastGroup::Link]).map_err(LinksError::Socket)?;
            runtime.spawn(events);
            (questions, handle, messages)
        };
        runtime.spawn(questions);
        let links = Self {
            table: Arc::default(),
            changes: Arc::default(),
            handle,
            runtime: runtime.handle().clone(),
        };

        let first = runtime.block_on(dump(links.handle.clone()))?;
        let now = Instant::now();
        lock(&links.table).extend(first.into_iter().map(|link| (link.index, (link, now))));

        let (own, handle) = (links.clone(), links.handle.clone());
        thread::Builder::new()
            .name("links".into())
            .spawn(move || {
                runtime.block_on(async move {
                    loop {
                        // The event socket drops messages when it overflows, without telling this far up: the
                        // table is read anew now and then, so that a missed event is late rather than lost.
                        match tokio::time::timeout(Duration::from_secs(2), messages.next()).await {
                            Ok(Some((message, _))) => {
                                if let Some(event) = event(message) {
                                    own.apply(event, &news);
                                }
                            }
                            Ok(None) => {
                                error!("the kernel closed the link event socket: interfaces that come or go are seen late");
                                break;
                            }
                            Err(_) => own.resynchronise(handle.clone(), &news).await,
                        }
                    }
                    loop {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        own.resynchronise(handle.clone(), &news).await;
                    }
                });
            })
            .map_err(LinksError::Socket)?;
        Ok(links)
    }

    /// The link of that name, as last heard of.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Link> {
        lock(&self.table).values().find(|(link, _)| link.name == name).map(|(link, _)| link.clone())
    }

    /// The links whose peer is in the namespace that the host calls `netns`.
    #[must_use]
    pub fn into_namespace(&self, netns: i32) -> Vec<Link> {
        let mut found: Vec<Link> = lock(&self.table)
            .values()
            .map(|(link, _)| link)
            .filter(|link| link.peer.is_some_and(|peer| peer.netns == netns))
            .cloned()
            .collect();
        found.sort_by_key(|link| link.peer.map(|peer| peer.index));
        found
    }

    /// All ends of pairs whose other end is in another network namespace.
    #[must_use]
    pub fn pairs(&self) -> Vec<Link> {
        lock(&self.table)
            .values()
            .map(|(link, _)| link)
            .filter(|link| link.is_pair() && link.peer.is_some())
            .cloned()
            .collect()
    }

    /// Since when that link has been there, as far as this agent knows.
    pub(super) fn since(&self, link: &Link) -> Option<Instant> {
        lock(&self.table).get(&link.index).filter(|(known, _)| known == link).map(|(_, since)| *since)
    }

    /// Another number whenever a link came, changed or went.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    async fn resynchronise(&self, handle: Handle, news: &impl Fn(LinkEvent)) {
        let now = match dump(handle).await {
            Ok(links) => links,
            Err(error) => return warn!(%error, "cannot read the links anew"),
        };
        let gone: Vec<u32> = {
            let table = lock(&self.table);
            table.keys().copied().filter(|index| !now.iter().any(|link| link.index == *index)).collect()
        };
        for index in gone {
            self.apply(LinkEvent::Removed { index }, news);
        }
        for link in now {
            let known = lock(&self.table).get(&link.index).is_some_and(|(known, _)| *known == link);
            if !known {
                self.apply(LinkEvent::Changed(link), news);
            }
        }
    }

    fn apply(&self, event: LinkEvent, news: &impl Fn(LinkEvent)) {
        match &event {
            LinkEvent::Changed(link) => {
                let mut table = lock(&self.table);
                // A pair that now leads elsewhere is as good as new.
                let since = match table.get(&link.index) {
                    Some((known, since)) if known.peer == link.peer && known.kind == link.kind => *since,
                    _ => Instant::now(),
                };
                table.insert(link.index, (link.clone(), since));
            }
            LinkEvent::Removed { index } => drop(lock(&self.table).remove(index)),
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
        news(event);
    }
}

fn lock(table: &Mutex<HashMap<u32, Known>>) -> std::sync::MutexGuard<'_, HashMap<u32, Known>> {
    // Each change of the table is one insertion or removal, so a panic elsewhere leaves it whole.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn dump(handle: Handle) -> Result<Vec<Link>, LinksError> {
    let messages: Result<Vec<LinkMessage>, _> = handle.link().get().execute().try_collect().await;
    match messages {
        Ok(messages) => Ok(messages.iter().filter_map(read).collect()),
        Err(error) => Err(LinksError::Query { what: "all links".into(), reason: error.to_string() }),
    }
}

fn event(message: NetlinkMessage<RouteNetlinkMessage>) -> Option<LinkEvent> {
    match message.payload {
        // A bridge tells of its ports in messages of its own family, which lack most of what a link is; and a port
        // that leaves a bridge is not a link that is gone.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if is_of_link(&link) => {
            read(&link).map(LinkEvent::Changed)
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) if is_of_link(&link) => {
            Some(LinkEvent::Removed { index: link.header.index })
        }
        _ => None,
    }
}

fn is_of_link(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

pub(super) fn read(message: &LinkMessage) -> Option<Link> {
    let (mut name, mut kind, mut peer_index, mut peer_netns, mut address) =
        (None, String::new(), None, None, Vec::new());
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(found) => name = Some(found.clone()),
            LinkAttribute::Link(index) => peer_index = Some(*index),
            LinkAttribute::LinkNetNsId(id) if *id >= 0 => peer_netns = Some(*id),
            LinkAttribute::Address(found) => address.clone_from(found),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(found) = info {
                        kind = kind_name(found);
                    }
                }
            }
            _ => {}
        }
    }
    let peer = peer_netns.zip(peer_index).map(|(netns, index)| Peer { netns, index });
    Some(Link { index: message.header.index, name: name?, kind, peer, address })
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}
