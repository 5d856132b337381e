//! What some CNIs do: a program on one pod's host interface that hands packets straight into another pod, past the host
//! interface of that one (`bpf_redirect_peer`, Linux 5.10; attached by tcx, Linux 6.6).

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context, Result};
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_prog_type};

use crate::pods::Pod;

/// Redirects until it is dropped.
#[derive(Debug)]
pub struct Redirect {
    _link: OwnedFd,
}

impl Redirect {
    /// All that `from` sends goes straight into `to`.
    pub fn start(from: &Pod, to: &Pod) -> Result<Self> {
        let [from, to] = [from, to].map(|pod| index(&pod.host_interface));
        // r1 = index; r2 = 0; call bpf_redirect_peer; exit
        let code = [0x01b7 | u64::from(to?) << 32, 0x02b7, 0x0000_009b_0000_0085, 0x95];
        let license = c"GPL";
        let mut attr = empty();
        // SAFETY: the variant for BPF_PROG_LOAD is all integers.
        let load = unsafe { &mut attr.__bindgen_anon_3 };
        load.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
        load.insn_cnt = code.len() as u32;
        load.insns = code.as_ptr() as u64;
        load.license = license.as_ptr() as u64;
        let program = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr).context("BPF_PROG_LOAD")?;
        let mut attr = empty();
        attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd() as u32;
        attr.link_create.__bindgen_anon_2.target_ifindex = from?;
        attr.link_create.attach_type = bpf_attach_type::BPF_TCX_INGRESS as u32;
        let link = bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr).context("BPF_LINK_CREATE")?;
        Ok(Self { _link: link })
    }
}

fn index(interface: &str) -> Result<u32> {
    let path = format!("/sys/class/net/{interface}/ifindex");
    Ok(std::fs::read_to_string(&path).context(path)?.trim().parse()?)
}

fn empty() -> bpf_attr {
    // SAFETY: all zero is a valid value of this union of integers.
    unsafe { std::mem::zeroed() }
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is a `bpf_attr` of the size given; what it points to outlives the call.
    let result: c_long =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this file descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}
