//! Keeping the table up to date: by the kernel's messages, and by reading all links anew.
//!
//! When more happens than the event socket holds, the kernel drops messages and says so, once until somebody has read all
//! the others. So all links are read anew soon after a loss; once things have calmed down; and now and then in any case,
//! because what was read may be older than the last message, or a loss the second in a row: an event may be late,
//! and is never lost.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{AddressFamily, RouteNetlinkMessage, link::LinkMessage},
};
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, warn};

use super::{Link, LinkEvent, LinksError, Table, read};

/// When all links are read anew.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rhythm {
    /// When nothing has happened for so long after something did.
    pub(super) quiet: Duration,
    /// So long after a loss at the latest: by then the storm may be over.
    pub(super) after_loss: Duration,
    /// So long after the last time at the latest.
    pub(super) at_most: Duration,
}

impl Default for Rhythm {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(2),
            after_loss: Duration::from_secs(1),
            at_most: Duration::from_secs(10),
        }
    }
}

/// Never returns.
pub(super) async fn follow(
    table: &Table,
    messages: impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>>,
    all: impl AsyncFn() -> Result<Vec<Link>, LinksError>,
    rhythm: Rhythm,
    news: impl Fn(LinkEvent),
) {
    let tell = |event: LinkEvent| {
        table.apply(&event);
        news(event);
    };
    let read_anew = async || match all().await {
        Ok(links) => table.missed(links).into_iter().for_each(tell),
        Err(error) => warn!(%error, "cannot read the links anew"),
    };
    let mut messages = std::pin::pin!(messages);
    let mut due = Instant::now() + rhythm.at_most;
    let mut calm = false;
    loop {
        let left = due.saturating_duration_since(Instant::now());
        let patience = if calm { left } else { left.min(rhythm.quiet) };
        // Looked at first: the stream of messages may never run dry.
        let heard = match left.is_zero() {
            true => Err(()),
            false => timeout(patience, messages.next()).await.map_err(drop),
        };
        calm = heard.is_err();
        match heard {
            Ok(Some(message)) => match message.payload {
                NetlinkPayload::Overrun(_) => due = due.min(Instant::now() + rhythm.after_loss),
                NetlinkPayload::InnerMessage(message) => event(&message).into_iter().for_each(tell),
                _ => {}
            },
            Ok(None) => break,
            Err(()) => {
                read_anew().await;
                due = Instant::now() + rhythm.at_most;
            }
        }
    }
    error!("the kernel closed the link event socket: interfaces that come or go are seen late");
    loop {
        sleep(rhythm.after_loss).await;
        read_anew().await;
    }
}

fn event(message: &RouteNetlinkMessage) -> Option<LinkEvent> {
    match message {
        // A bridge tells of its ports in messages of its own family, which lack most of what a link is; and a port
        // that leaves a bridge is not a link that is gone.
        RouteNetlinkMessage::NewLink(link) if is_of_link(link) => read(link).map(LinkEvent::Changed),
        RouteNetlinkMessage::DelLink(link) if is_of_link(link) => {
            Some(LinkEvent::Removed { index: link.header.index })
        }
        _ => None,
    }
}

fn is_of_link(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        time::Instant as Moment,
    };

    use futures_util::stream;
    use rtnetlink::packet_core::NetlinkHeader;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(3600);

    fn link(index: u32) -> Link {
        Link { index, name: format!("veth{index}"), kind: "veth".into(), peer: None, address: Vec::new() }
    }

    fn overrun() -> NetlinkMessage<RouteNetlinkMessage> {
        NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()))
    }

    fn removed(index: u32) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        NetlinkMessage::from(RouteNetlinkMessage::DelLink(message))
    }

    /// Follows `first`, then messages without a pause, while links 1 and 2 are known and only link 2 is there. What was
    /// told within a second, and when: by the time since the beginning.
    fn among_many(
        first: Vec<NetlinkMessage<RouteNetlinkMessage>>,
        rhythm: Rhythm,
    ) -> (Vec<(LinkEvent, Duration)>, u32) {
        let table = Table::default();
        table.begin(vec![link(1), link(2)]);
        let (told, readings, begun) = (RefCell::new(Vec::new()), Cell::new(0), Moment::now());
        let busy = stream::iter(first).chain(stream::repeat_with(|| removed(1000)).then(async |message| {
            sleep(Duration::from_millis(2)).await;
            message
        }));
        let all = async || {
            readings.set(readings.get() + 1);
            Ok(vec![link(2)])
        };
        let news = |event| {
            if event != (LinkEvent::Removed { index: 1000 }) {
                told.borrow_mut().push((event, begun.elapsed()));
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let end =
            runtime.block_on(async { timeout(10 * SHORT, follow(&table, busy, all, rhythm, news)).await });
        assert!(end.is_err(), "it never returns");
        (told.into_inner(), readings.get())
    }

    #[test]
    fn what_was_not_heard_is_found_out_although_messages_never_end() {
        let rhythm = Rhythm { quiet: LONG, after_loss: LONG, at_most: SHORT };
        let (told, readings) = among_many(Vec::new(), rhythm);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].0, LinkEvent::Removed { index: 1 });
        assert!((1..=10).contains(&readings), "{readings}");
    }

    #[test]
    fn after_a_loss_it_is_found_out_soon_and_once() {
        let rhythm = Rhythm { quiet: LONG, after_loss: SHORT, at_most: LONG };
        let (told, readings) = among_many(vec![overrun(), overrun()], rhythm);
        assert_eq!((told.len(), readings), (1, 1), "{told:?}");
        assert_eq!(told[0].0, LinkEvent::Removed { index: 1 });
        assert!(told[0].1 >= SHORT, "not in the middle of it: {told:?}");
    }

    #[test]
    fn without_a_loss_it_is_left_alone() {
        let rhythm = Rhythm { quiet: LONG, after_loss: SHORT, at_most: LONG };
        assert_eq!(among_many(Vec::new(), rhythm), (Vec::new(), 0));
    }
}
