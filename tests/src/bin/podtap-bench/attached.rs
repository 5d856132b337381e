//! Whether something is attached to an interface, as the kernel tells it.

use std::collections::HashSet;

use anyhow::{Context as _, Result};

use crate::bpf;

/// How many of these interfaces are tapped in both directions: by two tcx links or a packet socket.
pub(crate) fn by_any_way(interfaces: &HashSet<u32>) -> Result<usize> {
    kinds(interfaces).map(|(links, sockets)| links / 2 + sockets)
}

/// tcx links, and packet sockets, on these interfaces.
pub(crate) fn kinds(interfaces: &HashSet<u32>) -> Result<(usize, usize)> {
    let links = bpf::tcx_links().into_iter().filter(|interface| interfaces.contains(interface)).count();
    let sockets = std::fs::read_to_string("/proc/net/packet").context("/proc/net/packet")?;
    // sk RefCnt Type Proto Iface R Rmem User Inode
    let bound = sockets.lines().skip(1).filter(|line| {
        let interface = line.split_whitespace().nth(4).and_then(|word| word.parse().ok());
        interface.is_some_and(|interface: u32| interfaces.contains(&interface))
    });
    Ok((links, bound.count()))
}
