//! How a tap hangs on an interface: by tcx links, or by the filter of an `AF_PACKET` socket. Both end with the agent.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use capture_common::Direction;

use super::{
    DatapathError,
    sys::{self, Hook},
};

/// How taps are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttachMode {
    /// tcx links, ahead of all other programs. Linux 6.6. Each link waits for an RCU grace period.
    Tcx,
    /// The filter of an `AF_PACKET` socket. Any kernel; at once. Packets to the pod are cloned for it.
    Socket,
}

/// The hook of the host interface that a direction passes.
const fn hook(direction: Direction) -> Hook {
    match direction {
        Direction::FromPod => Hook::Ingress,
        Direction::ToPod => Hook::Egress,
    }
}

/// A tcx link of one direction.
#[derive(Debug)]
pub(super) struct TcxLink {
    pub(super) direction: Direction,
    link: OwnedFd,
}

impl TcxLink {
    pub(super) fn create(
        program: BorrowedFd<'_>,
        ifindex: u32,
        direction: Direction,
    ) -> Result<Self, DatapathError> {
        let link = sys::tcx_link(program, ifindex, hook(direction))
            .map_err(|source| DatapathError::Syscall { call: "attach by tcx", source })?;
        Ok(Self { direction, link })
    }

    pub(super) fn replace(&self, program: BorrowedFd<'_>) -> Result<(), DatapathError> {
        sys::link_update(self.link.as_fd(), program)
            .map_err(|source| DatapathError::Syscall { call: "replace the program of a tcx link", source })
    }
}

impl Drop for TcxLink {
    fn drop(&mut self) {
        // Fails when the interface is gone, and with it the attachment.
        let _ = sys::link_detach(self.link.as_fd());
    }
}

/// A packet socket that never gets a packet, since its filter keeps none. Closing it waits for running filters.
#[derive(Debug)]
pub(super) struct FilterSocket(OwnedFd);

impl FilterSocket {
    /// Opens a socket that sees one interface, with the program in place before the first packet.
    #[doc(alias = "AF_PACKET")]
    pub(super) fn bind(program: BorrowedFd<'_>, ifindex: u32) -> Result<Self, DatapathError> {
        // Protocol 0: no packets before `bind`.
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(DatapathError::last("open a packet socket"));
        }
        // SAFETY: the kernel has just returned this file descriptor.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.set_program(program)?;
        // SAFETY: all zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex as i32;
        // SAFETY: the address is of the size given.
        let bound = unsafe {
            libc::bind(
                socket.0.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if bound == 0 { Ok(socket) } else { Err(DatapathError::last("bind a packet socket")) }
    }

    /// The interface that the socket sees; none when that one is gone, even if another has its index by now.
    pub(super) fn bound_to(&self) -> Option<u32> {
        // SAFETY: all zero is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        let mut length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to the address.
        let told =
            unsafe { libc::getsockname(self.0.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
        // The kernel sets the index to -1 when the interface is unregistered.
        if told == 0 { u32::try_from(address.sll_ifindex).ok() } else { None }
    }

    /// Sets or replaces the program: every packet meets the old one or the new one.
    #[doc(alias = "SO_ATTACH_BPF")]
    pub(super) fn set_program(&self, program: BorrowedFd<'_>) -> Result<(), DatapathError> {
        let program = program.as_raw_fd();
        // SAFETY: the option's value is an int of the size given.
        let set = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_BPF,
                (&raw const program).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if set == 0 { Ok(()) } else { Err(DatapathError::last("attach to a packet socket")) }
    }
}

/// A no-op tcx link in each direction, on the loopback of a network namespace of its own, where no packet ever
/// passes: with the node's first tcx link in a direction, packets are seen only after a static key has flipped, and
/// these keep it flipped. Also the proof that this kernel has tcx.
#[derive(Debug)]
pub(super) struct WarmLinks {
    _links: [OwnedFd; 2],
    /// The links would end with the namespace.
    _namespace: Option<OwnedFd>,
}

impl WarmLinks {
    pub(super) fn create() -> Result<Self, DatapathError> {
        let program = sys::no_op_program()?;
        let made = std::thread::scope(|scope| scope.spawn(|| Self::in_own_namespace(&program)).join());
        made.unwrap_or_else(|_| Err(io::Error::other("the probing thread panicked")))
            .map_err(DatapathError::NoTcx)
    }

    /// Runs in a thread that ends with this, so the agent itself stays where it is.
    fn in_own_namespace(program: &OwnedFd) -> io::Result<Self> {
        /// Index of `lo` in every network namespace.
        const LOOPBACK: u32 = 1;
        // SAFETY: affects this thread only.
        let namespace = if unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0 {
            Some(std::fs::File::open("/proc/thread-self/ns/net")?.into())
        } else {
            // The node's own loopback does as well, at a few ns for each of its packets.
            None
        };
        let link = |hook| sys::tcx_link(program.as_fd(), LOOPBACK, hook);
        Ok(Self { _links: [link(Hook::Ingress)?, link(Hook::Egress)?], _namespace: namespace })
    }
}
