//! One link made by hand, by one message: starting `ip` would take longer than what is measured.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};

/// A routing socket.
#[derive(Debug)]
pub(crate) struct Links(OwnedFd);

/// `IFLA_INFO_KIND`
const INFO_KIND: u16 = 1;

impl Links {
    /// Opens it.
    pub(crate) fn open() -> Result<Self> {
        // SAFETY: takes no pointers.
        let raw = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
        };
        ensure!(raw >= 0, "netlink: {}", io::Error::last_os_error());
        // SAFETY: a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Makes a veth of that name; its other end is named by the kernel. Returns when the kernel has it.
    pub(crate) fn add_veth(&self, name: &str) -> Result<()> {
        let kind = attribute(libc::IFLA_LINKINFO, &attribute(INFO_KIND, b"veth"));
        let body = [header(), attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat()), kind].concat();
        self.ask(libc::RTM_NEWLINK, (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16, &body)
            .with_context(|| format!("cannot make link {name}"))
    }

    /// Takes a link away, and with a veth its other end.
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        let body = [header(), attribute(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat())].concat();
        self.ask(libc::RTM_DELLINK, 0, &body).with_context(|| format!("cannot delete link {name}"))
    }

    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        let length = u32::try_from(16 + body.len())?;
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let head = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
        let message = [&head, body].concat();
        // SAFETY: the message is of that length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        ensure!(sent == message.len() as isize, "send: {}", io::Error::last_os_error());
        let mut answer = [0u8; 4096];
        // SAFETY: the buffer is of that length.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
        ensure!(got >= 20, "recv: {}", io::Error::last_os_error());
        let error = i32::from_ne_bytes(*answer[16..].first_chunk().context("short")?);
        ensure!(error == 0, "{}", io::Error::from_raw_os_error(-error));
        Ok(())
    }
}

/// `struct ifinfomsg`, which says nothing here.
fn header() -> Vec<u8> {
    vec![0; 16]
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
