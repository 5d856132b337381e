//! The host's links, kept up to date by rtnetlink(7) events of the group `RTNLGRP_LINK`.

mod follow;
mod table;

use std::{io, sync::Arc, thread, time::Instant};

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    Handle, MulticastGroup, new_connection_with_strict_check, new_multicast_connection,
    packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use thiserror::Error;

use self::{follow::Rhythm, table::Table};

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

/// The host's links. Clones share one table.
#[derive(Clone, Debug)]
pub struct Links {
    table: Arc<Table>,
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
        let (questions, handle, messages) = {
            let _in_runtime = runtime.enter();
            let (questions, handle, _) = new_connection_with_strict_check().map_err(LinksError::Socket)?;
            let (events, _, messages) =
                new_multicast_connection(&[MulticastGroup::Link]).map_err(LinksError::Socket)?;
            runtime.spawn(events);
            (questions, handle, messages)
        };
        runtime.spawn(questions);
        let links = Self { table: Arc::default(), handle, runtime: runtime.handle().clone() };
        links.table.begin(runtime.block_on(dump(links.handle.clone()))?);

        let (table, handle) = (Arc::clone(&links.table), links.handle.clone());
        thread::Builder::new()
            .name("links".into())
            .spawn(move || {
                let messages = messages.map(|(message, _)| message);
                let all = async || dump(handle.clone()).await;
                runtime.block_on(follow::follow(&table, messages, all, Rhythm::default(), news));
            })
            .map_err(LinksError::Socket)?;
        Ok(links)
    }

    /// The link of that name, as last heard of.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Link> {
        self.table.find(|link| link.name == name)
    }

    /// The links whose peer is in the namespace that the host calls `netns`.
    #[must_use]
    pub fn into_namespace(&self, netns: i32) -> Vec<Link> {
        let mut found = self.table.select(|link| link.peer.is_some_and(|peer| peer.netns == netns));
        found.sort_by_key(|link| link.peer.map(|peer| peer.index));
        found
    }

    /// All ends of pairs whose other end is in another network namespace.
    #[must_use]
    pub fn pairs(&self) -> Vec<Link> {
        self.table.select(|link| link.is_pair() && link.peer.is_some())
    }

    /// What has become of the link of that index, as last heard of.
    #[must_use]
    pub fn now(&self, index: u32) -> LinkEvent {
        self.table.now(index)
    }

    /// Since when that link has been there, as far as this agent knows.
    pub(super) fn since(&self, link: &Link) -> Option<Instant> {
        self.table.since(link)
    }

    /// Another number whenever a link came, changed or went.
    pub(super) fn changes(&self) -> u64 {
        self.table.changes()
    }
}

async fn dump(handle: Handle) -> Result<Vec<Link>, LinksError> {
    let messages: Result<Vec<LinkMessage>, _> = handle.link().get().execute().try_collect().await;
    match messages {
        Ok(messages) => Ok(messages.iter().filter_map(read).collect()),
        Err(error) => Err(LinksError::Query { what: "all links".into(), reason: error.to_string() }),
    }
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
