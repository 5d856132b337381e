//! What listens on an interface, asked of the kernel.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Programs and sockets on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// tcx programs, both directions.
    pub tcx: u32,
    /// Packet sockets bound to it.
    pub sockets: u32,
}

impl Attached {
    /// On a host interface; nothing when there is no such interface.
    pub fn on(interface: &str) -> Result<Self> {
        let index = Path::new("/sys/class/net").join(interface).join("ifindex");
        let Ok(index) = std::fs::read_to_string(index) else { return Ok(Self { tcx: 0, sockets: 0 }) };
        let index = index.trim();
        let list = std::fs::read_to_string("/proc/net/packet").context("/proc/net/packet")?;
        // Columns: address, references, type, protocol, interface.
        let bound = list.lines().skip(1).filter(|line| line.split_whitespace().nth(4) == Some(index));
        let number = index.parse()?;
        let tcx = [tcx(number, INGRESS)?, tcx(number, EGRESS)?].into_iter().flatten().sum();
        Ok(Self { tcx, sockets: u32::try_from(bound.count())? })
    }

    /// Whether anything does.
    pub fn any(self) -> bool {
        self.tcx + self.sockets > 0
    }
}

/// Whether this kernel has tcx (Linux 6.6).
pub fn tcx_exists() -> Result<bool> {
    const LOOPBACK: u32 = 1;
    Ok(tcx(LOOPBACK, INGRESS)?.is_some())
}

const INGRESS: u32 = 46;
const EGRESS: u32 = 47;

/// How many tcx programs there are, by `BPF_PROG_QUERY`; none at all when the kernel knows no tcx.
fn tcx(index: u32, attach_type: u32) -> Result<Option<u32>> {
    const PROG_QUERY: libc::c_long = 16;
    // `union bpf_attr`, its member `query`, in 32-bit words; word 6 is the count.
    let mut query = [0u32; 16];
    query[0] = index;
    query[1] = attach_type;
    let size = u32::try_from(size_of_val(&query))?;
    // SAFETY: the kernel reads and writes `size` bytes at most; no other pointer is set.
    let status = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, query.as_mut_ptr(), size) };
    if status == 0 {
        return Ok(Some(query[6]));
    }
    let error = std::io::Error::last_os_error();
    match error.raw_os_error() {
        // Nothing was ever attached.
        Some(libc::ENOENT) => Ok(Some(0)),
        Some(libc::EINVAL) => Ok(None),
        _ => bail!("BPF_PROG_QUERY: {error}"),
    }
}
