//! Filters run by this machine's kernel, over frames given as bytes.

pub mod sys;

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use thiserror::Error;

use self::sys::ProgramType;
use crate::Filter;
use crate::insn::{Insn, Jump};

/// Longest frame in bytes that can be run: more than any packet has.
pub const MAX_FRAME: usize = 256 << 10;

/// The kernel refused something.
#[derive(Debug, Error)]
#[error("{call}: {source}{}{detail}", if detail.is_empty() { "" } else { ": " })]
pub struct KernelError {
    /// What was asked.
    pub call: &'static str,
    /// What the verifier said last.
    pub detail: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl KernelError {
    fn new(call: &'static str, source: io::Error) -> Self {
        Self { call, detail: String::new(), source }
    }
}

/// A filter that is loaded.
///
/// Most frames go through `BPF_PROG_TEST_RUN` of a tc program; those that it does not take (too short for their headers,
/// or long) are sent through a pair of sockets, the receiving end of which has the filter attached.
pub struct LoadedFilter {
    program: OwnedFd,
    socket: FilteredSocket,
}

impl LoadedFilter {
    /// Loads a filter, for each kind of program as taps run it there. Needs CAP_BPF and CAP_NET_ADMIN (CAP_SYS_ADMIN
    /// before kernel 5.8).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn load(filter: &Filter) -> Result<Self, KernelError> {
        let function = &filter.translation().code;
        let mut code = filter.fast_path(0).unwrap_or_default();
        if !code.is_empty() {
            // Where the call would be, and what is behind it.
            code.extend([Jump::Always.insn(1), Insn::EXIT]);
        }
        code.extend(function);
        let program = sys::load(ProgramType::Classifier, &code, None)?;
        Ok(Self { program, socket: FilteredSocket::new(function)? })
    }

    /// Whether the filter matches a frame, which begins with its Ethernet header and has its VLAN tags inside.
    ///
    /// # Errors
    /// When the kernel does not take the frame in either way.
    pub fn matches(&self, frame: &[u8]) -> Result<bool, KernelError> {
        match sys::test_run(&self.program, frame, None) {
            Ok(verdict) => Ok(verdict != 0),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.socket.matches(frame),
            Err(error) => Err(KernelError::new("running the filter", error)),
        }
    }
}

/// A pair of sockets with the filter between them. It takes frames of any length, also none at all; long ones arrive as
/// packets of several parts.
pub struct FilteredSocket {
    sender: OwnedFd,
    receiver: OwnedFd,
}

impl FilteredSocket {
    /// Loads a filter's instructions as a socket's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(code: &[Insn]) -> Result<Self, KernelError> {
        let program = sys::load(ProgramType::SocketFilter, code, None)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (sender, receiver) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None)
            .map_err(|error| KernelError::new("making sockets", error.into()))?;
        sys::send_buffer(&sender, 2 * MAX_FRAME as libc::c_int)
            .map_err(|error| KernelError::new("making room for a frame", error))?;
        sys::attach(&receiver, &program).map_err(|error| KernelError::new("attaching the filter", error))?;
        Ok(Self { sender, receiver })
    }

    /// Whether the filter matches a frame.
    ///
    /// # Errors
    /// When the frame cannot be sent.
    pub fn matches(&self, frame: &[u8]) -> Result<bool, KernelError> {
        send(&self.sender, frame, SendFlags::empty())
            .map_err(|error| KernelError::new("sending the frame through the filter", error.into()))?;
        match recv(&self.receiver, &mut [0u8; 1], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(error) => Err(KernelError::new("receiving the frame from the filter", error.into())),
        }
    }
}
