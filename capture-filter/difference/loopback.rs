//! A loopback device in a network namespace of its own, whose packets are of two parts: the kernel's test runs make none
//! such, and real ones are what direct reads must not be misled by.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::{ptr, thread};

use super::calls::{LinkCreate, bpf, owned};

/// Longest frame in bytes that goes over the device.
pub(crate) const MAX_FRAME: usize = 256 << 10;
/// Shorter ones are in one part.
pub(crate) const MIN_PARTED: usize = 4096;

/// The loopback device's index in every network namespace.
const INDEX: u32 = 1;
// linux/bpf.h
const LINK_CREATE: libc::c_int = 28;
const TCX_EGRESS: u32 = 47;
// linux/if_packet.h
const PACKET_VNET_HDR: libc::c_int = 15;
/// Size of `struct virtio_net_hdr`, which then stands in front of each frame.
const VNET_HEADER: usize = 10;
/// Offset of its `hdr_len`: the length of the first part.
const HEADER_LENGTH: usize = 2;

pub(crate) struct Loopback {
    namespace: File,
    socket: OwnedFd,
}

impl Loopback {
    pub(crate) fn new() -> io::Result<Self> {
        // A thread of its own leaves the namespace behind when it ends; file and socket keep it.
        in_thread(|| {
            // SAFETY: affects this thread only.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            let namespace = File::open("/proc/thread-self/ns/net")?;
            // Nothing is received: the protocol is none.
            let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
            // SAFETY: makes a descriptor.
            let socket = owned(check(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?);
            let mut request = interface_request();
            request.ifr_ifru.ifru_mtu = MAX_FRAME as libc::c_int;
            // SAFETY: a whole request that lives during the call.
            check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFMTU, &request) })?;
            request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
            // SAFETY: as above.
            check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) })?;
            set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 * MAX_FRAME as libc::c_int)?;
            set_option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
            Ok(Self { namespace, socket })
        })
    }

    /// Attaches a tc program to what the device sends. `None` on a kernel without tcx.
    pub(crate) fn attach(&self, program: &OwnedFd) -> io::Result<Option<OwnedFd>> {
        in_thread(|| {
            // SAFETY: affects this thread only.
            check(unsafe { libc::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWNET) })?;
            let prog_fd = program.as_raw_fd().cast_unsigned();
            let mut attr = LinkCreate { prog_fd, target_ifindex: INDEX, attach_type: TCX_EGRESS, flags: 0 };
            // SAFETY: there are no addresses in this.
            match unsafe { bpf(LINK_CREATE, &mut attr) } {
                Ok(link) => Ok(Some(owned(link))),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    /// Sends a frame past the program, which must drop it. Only `linear` bytes (and at least 14) are in its linear part if
    /// it is of [`MIN_PARTED`] bytes or more.
    pub(crate) fn send(&self, frame: &[u8], mark: u32, linear: u16) -> io::Result<()> {
        set_option(&self.socket, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
        let mut header = [0u8; VNET_HEADER];
        let linear = usize::from(linear).min(frame.len()) as u16;
        header[HEADER_LENGTH..][..2].copy_from_slice(&linear.to_ne_bytes());
        let mut parts = [&header[..], frame]
            .map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
        // SAFETY: all-zero is a valid address, and a valid message without any part.
        let (mut address, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::c_ushort;
        address.sll_ifindex = INDEX as libc::c_int;
        message.msg_name = ptr::from_mut(&mut address).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = parts.as_mut_ptr();
        message.msg_iovlen = parts.len();
        // SAFETY: address and parts live during the call, and are only read.
        match check(unsafe { libc::sendmsg(self.socket.as_raw_fd(), &message, 0) as libc::c_int }) {
            Ok(_) => Err(io::Error::other("the packet passed")),
            // Dropped.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// For the loopback device.
fn interface_request() -> libc::ifreq {
    // SAFETY: all-zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *place = *byte as libc::c_char;
    }
    request
}

fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
}

fn set_option(socket: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let value = ptr::from_ref(&value).cast();
    // SAFETY: the option's value is an int, read during the call.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value, size) }).map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
