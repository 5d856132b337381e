//! What others do by tcx on a pod's interface, with the `bpf(2)` commands that they would use.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd, bpf_prog_type};

/// Egress of the host interface: what the pod receives.
const EGRESS: u32 = bpf_attach_type::BPF_TCX_EGRESS as u32;

/// `BPF_PROG_LOAD`
#[repr(C)]
#[derive(Default)]
struct Load {
    program_type: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

/// `BPF_LINK_CREATE`
#[repr(C)]
#[derive(Default)]
struct Create {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    rest: [u32; 5],
}

/// `BPF_PROG_QUERY`
#[repr(C)]
#[derive(Default)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    flags: [u32; 2],
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    rest: [u64; 8],
}

/// Issues a command whose attributes begin with `attributes`.
fn bpf<T>(command: bpf_cmd, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: of the size given; what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor<T>(command: bpf_cmd, attributes: &mut T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just returned this descriptor.
    bpf(command, attributes).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor as i32) })
}

/// Attaches a program that does nothing behind what is on an interface's egress. The link ends with its descriptor.
fn join_egress(ifindex: u32) -> io::Result<OwnedFd> {
    // Return TCX_NEXT.
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let program = descriptor(
        bpf_cmd::BPF_PROG_LOAD,
        &mut Load {
            program_type: bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"MIT".as_ptr() as u64,
        },
    )?;
    let program = program.as_raw_fd() as u32;
    let mut create = Create { program, ifindex, attach_type: EGRESS, ..Create::default() };
    descriptor(bpf_cmd::BPF_LINK_CREATE, &mut create)
}

/// Attaches as many programs to an interface's egress as it takes.
pub(crate) fn crowd_egress(ifindex: u32) -> Vec<OwnedFd> {
    let mut links = Vec::new();
    loop {
        match join_egress(ifindex) {
            Ok(link) => links.push(link),
            Err(full) => {
                assert_eq!((full.raw_os_error(), links.len() > 8), (Some(libc::ERANGE), true), "{full}");
                return links;
            }
        }
    }
}

/// Detaches every link on an interface's egress, as an admin can.
pub(crate) fn clear_egress(ifindex: u32) {
    let (mut programs, mut links) = ([0u32; 64], [0u32; 64]);
    let mut query = Query {
        ifindex,
        attach_type: EGRESS,
        programs: programs.as_mut_ptr() as u64,
        count: programs.len() as u32,
        links: links.as_mut_ptr() as u64,
        ..Query::default()
    };
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut query).unwrap();
    assert_ne!(query.count, 0, "nothing is attached");
    for id in &mut links[..query.count as usize] {
        let link = descriptor(bpf_cmd::BPF_LINK_GET_FD_BY_ID, id).unwrap();
        bpf(bpf_cmd::BPF_LINK_DETACH, &mut link.as_raw_fd()).unwrap();
    }
}
