//! Questions to the kernel about links and network namespaces, answered from the host's side.

use std::{
    os::fd::{AsRawFd as _, BorrowedFd},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::LinkAttribute,
        nsid::{NsidAttribute, NsidMessage},
    },
};

use super::links::{Link, Links, LinksError, Peer, read};

/// How long one question may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many packets an interface has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Those that it received.
    pub received: u64,
    /// Those that it sent.
    pub sent: u64,
}

impl Links {
    /// The link with that index as the kernel knows it now.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn ask(&self, index: u32) -> Result<Link, LinksError> {
        let request = self.handle.link().get().match_index(index);
        self.wait(format!("interface {index}"), async move {
            request.execute().try_next().await.map_err(|error| error.to_string())
        })?
        .as_ref()
        .and_then(read)
        .ok_or_else(|| LinksError::Query {
            what: format!("interface {index}"),
            reason: "no such link".into(),
        })
    }

    /// The host's number for a network namespace, if it has one: it gets one with the first link that leads there.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn namespace_id(&self, netns: BorrowedFd<'_>) -> Result<Option<i32>, LinksError> {
        let mut message = NsidMessage::default();
        message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().unsigned_abs()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        self.wait("a namespace's number".into(), async move {
            let mut answers = handle.request(request).map_err(|error| error.to_string())?;
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(found)) => {
                        return Ok(found.attributes.iter().find_map(|attribute| match attribute {
                            NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                            _ => None,
                        }));
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_string()),
                    _ => {}
                }
            }
            Err("no answer".into())
        })
    }

    /// The name that a link has inside the namespace that the host calls `netns`.
    ///
    /// # Errors
    /// When there is no such link there.
    pub fn name_inside(&self, peer: Peer) -> Result<String, LinksError> {
        let what = format!("interface {} of namespace {}", peer.index, peer.netns);
        self.ask_inside(peer, what, |attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    }

    /// The addresses of all links inside the namespace that the host calls `netns`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn addresses_inside(&self, netns: i32) -> Result<Vec<AddressMessage>, LinksError> {
        let mut request = self.handle.address().get();
        request.message_mut().attributes.push(AddressAttribute::TargetNetNsId(netns));
        self.wait(format!("the addresses of namespace {netns}"), async move {
            request.execute().try_collect().await.map_err(|error| error.to_string())
        })
    }

    /// What the interface at the other end of a pair has counted.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn counters_inside(&self, peer: Peer) -> Result<LinkCounters, LinksError> {
        let what = format!("the counters of interface {} of namespace {}", peer.index, peer.netns);
        self.ask_inside(peer, what, |attribute| match attribute {
            LinkAttribute::Stats64(counted) => {
                Some(LinkCounters { received: counted.rx_packets, sent: counted.tx_packets })
            }
            _ => None,
        })
    }

    /// What `pick` finds of a link inside another namespace.
    fn ask_inside<T>(
        &self,
        peer: Peer,
        what: String,
        pick: impl FnMut(LinkAttribute) -> Option<T>,
    ) -> Result<T, LinksError> {
        let mut request = self.handle.link().get().match_index(peer.index);
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(peer.netns));
        self.wait(what.clone(), async move {
            request.execute().try_next().await.map_err(|error| error.to_string())
        })?
        .and_then(|message| message.attributes.into_iter().find_map(pick))
        .ok_or(LinksError::Query { what, reason: "no such link".into() })
    }

    fn wait<T>(
        &self,
        what: String,
        question: impl Future<Output = Result<T, String>>,
    ) -> Result<T, LinksError> {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, question).await })
            .unwrap_or_else(|_| Err("no answer in 5 s".into()))
            .map_err(|reason| LinksError::Query { what, reason })
    }
}
