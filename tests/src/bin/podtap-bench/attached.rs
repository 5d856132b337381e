//! Whether something is attached to an interface, as the kernel tells it.

use std::collections::HashSet;

use anyhow::{Context as _, Result};

use crate::bpf;

/// Counts taps as they are attached, without getting in their way: to ask of each tcx link where it is takes the lock of all
/// network configuration, which attaching waits for. So all that are new count as the agent's.
pub(crate) struct Newly {
    links_before: usize,
}

impl Newly {
    /// From now on.
    pub(crate) fn from_now() -> Self {
        Self { links_before: bpf::links() }
    }

    /// How many of these interfaces are tapped in both directions: by two tcx links or a packet socket.
    pub(crate) fn tapped(&self, interfaces: &HashSet<u32>) -> Result<usize> {
        Ok(self.linked() + sockets(interfaces)?)
    }

    /// How many interfaces are tapped by two tcx links. Attaching by tcx would even be held up by a reader of the list of
    /// sockets: a link takes 14 ms then instead of 8.
    pub(crate) fn linked(&self) -> usize {
        bpf::links().saturating_sub(self.links_before) / 2
    }
}

/// tcx links, and packet sockets, on these interfaces.
pub(crate) fn kinds(interfaces: &HashSet<u32>) -> Result<(usize, usize)> {
    let links = bpf::tcx_links().into_iter().filter(|interface| interfaces.contains(interface)).count();
    Ok((links, sockets(interfaces)?))
}

fn sockets(interfaces: &HashSet<u32>) -> Result<usize> {
    let sockets = std::fs::read_to_string("/proc/net/packet").context("/proc/net/packet")?;
    // sk RefCnt Type Proto Iface R Rmem User Inode
    let bound = sockets.lines().skip(1).filter(|line| {
        let interface = line.split_whitespace().nth(4).and_then(|word| word.parse().ok());
        interface.is_some_and(|interface: u32| interfaces.contains(&interface))
    });
    Ok(bound.count())
}
