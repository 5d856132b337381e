//! The programs do nothing to a packet, and leave nothing behind.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
};

use aya::programs::{ProgramInfo, SchedClassifier, TcAttachType, loaded_programs};
use aya_obj::generated::{bpf_attr, bpf_cmd};
use capture_common::TapSettings;
use capture_daemon::datapath::AttachMode;

use crate::{
    harness::{Capture, Collector, Pod, RING, filter, loader, modes, settings, turn},
    packets::{EXPERIMENT, IPV4, IPV6, Random, VLAN, frame, ipv4, ipv6, tagged, tcp},
};

/// The entry points.
const NAMES: [&str; 3] = ["tc_ingress", "tc_egress", "packet_socket"];

/// The tap's programs that are in the kernel now.
pub(crate) fn programs() -> Vec<ProgramInfo> {
    loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| program.name_as_str().is_some_and(|name| NAMES.contains(&name)))
        .collect()
}

/// Runs a program over a frame: what it returned, and the frame afterwards.
#[doc(alias = "BPF_PROG_TEST_RUN")]
fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<(u32, Vec<u8>)> {
    let mut output = vec![0u8; frame.len() + 256];
    // SAFETY: all zero is a valid value; the buffers outlive the call and are of the sizes given.
    unsafe {
        let mut attr: bpf_attr = std::mem::zeroed();
        attr.test.prog_fd = program.as_raw_fd() as u32;
        attr.test.data_in = frame.as_ptr() as u64;
        attr.test.data_size_in = frame.len() as u32;
        attr.test.data_out = output.as_mut_ptr() as u64;
        attr.test.data_size_out = output.len() as u32;
        let result =
            libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_TEST_RUN, &raw mut attr, size_of::<bpf_attr>());
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        output.truncate(attr.test.data_size_out as usize);
        Ok((attr.test.retval, output))
    }
}

fn random_frame(random: &mut Random) -> Vec<u8> {
    let length = match random.below(4) {
        0 => random.below(64),
        1 => random.below(1500),
        _ => random.below(300),
    } as usize;
    let payload = random.bytes(length);
    let protocol = [1, 6, 17, 44, 50, 51, 58, 60, 132, 0, 43][random.below(11) as usize];
    let random_frame = match random.below(6) {
        0 => frame(EXPERIMENT, &payload),
        1 => frame(random.next() as u16, &payload),
        2 => frame(IPV4, &ipv4(protocol, random.next() as u16 & 0x3fff, &[], &payload)),
        3 => frame(IPV4, &ipv4(6, 0, &[1; 8], &[&tcp(&[1; 12])[..], &payload].concat())),
        4 => frame(IPV6, &ipv6(protocol, &payload)),
        _ => frame(IPV6, &ipv6(6, &[&tcp(&[]), &payload[..]].concat())),
    };
    if random.below(4) == 0 { tagged(&random_frame, VLAN, random.next() as u16) } else { random_frame }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn every_packet_is_handed_on_unchanged() {
    let _turn = turn();
    // Socket test runs have no Ethernet header to match: some frames must match by their length.
    let port = filter("tcp or udp port 53 or vlan or greater 200");
    let limits = TapSettings { sample: 2, packet_cost: 1 << 30, packet_burst: 50_000_000, ..settings() };
    let headers = TapSettings { headers_only: 1, snap_length: 96, ..settings() };
    let mut random = Random(11);
    // Fewer on an emulated machine.
    let frames = if std::env::var_os("PODTAP_SLOW_MACHINE").is_some() { 1_000 } else { 10_000 };
    let ways = [(settings(), None), (settings(), Some(&port)), (limits, None), (headers, None)];
    for (mode, (settings, filter)) in modes().into_iter().flat_map(|mode| ways.map(|way| (mode, way))) {
        let before: Vec<_> = programs().iter().map(ProgramInfo::id).collect();
        // Its ring is being emptied, so that blocks are really written.
        let capture = Capture::load(
            mode,
            &settings,
            filter,
            RING,
            Collector { keep_nothing: true, ..Collector::default() },
        );
        let mut seen = 0;
        let mut tested = 0;
        for program in programs() {
            if before.contains(&program.id()) {
                continue;
            }
            let socket = program.name_as_str() == Some("packet_socket");
            let wanted = if socket { 0 } else { u32::MAX };
            let fd = program.fd().unwrap();
            tested += 1;
            for _ in 0..frames {
                let mut frame = random_frame(&mut random);
                match test_run(fd.as_fd(), &frame) {
                    Ok((returned, after)) => {
                        if socket {
                            // The kernel takes the Ethernet header off before, and puts zeros there afterwards.
                            frame[..14].fill(0);
                        }
                        assert_eq!(returned, wanted, "{:?} for {frame:02x?}", program.name_as_str());
                        assert!(after == frame, "{:?} changed {frame:02x?}", program.name_as_str());
                        seen += 1;
                    }
                    // The kernel's own test run takes no IP frames shorter than the header.
                    Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}"),
                }
            }
        }
        assert!(tested >= 1);
        assert_eq!(capture.tap.counters().unwrap().total().seen, seen);
        assert!(seen >= tested * frames / 10 * 9, "{seen}");
        assert!(capture.tap.counters().unwrap().total().captured > 0);
        capture.drain();
    }
}

/// Whether some packet socket is bound to the interface.
fn packet_socket_on(ifindex: u32) -> bool {
    let table = std::fs::read_to_string("/proc/net/packet").unwrap();
    // sk RefCnt Type Proto Iface ...; podtap's is for all protocols.
    table.lines().skip(1).any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields[3] == "0003" && fields[4] == ifindex.to_string()
    })
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn nothing_is_left_when_a_tap_is_dropped() {
    let _turn = turn();
    let ids = || -> Vec<u32> { programs().iter().map(ProgramInfo::id).collect() };
    for mode in modes() {
        let pod = Pod::new();
        // Some of them may be going.
        let before = ids();
        let mut tap = loader().load(None, &settings(), 1 << 20, mode).unwrap();
        tap.attach(pod.ifindex).unwrap();
        let attached = |hook| match SchedClassifier::query_tcx(&pod.host, hook) {
            Ok((_, programs)) => programs.len(),
            Err(_) => 0,
        };
        match mode {
            AttachMode::Tcx => {
                assert_eq!([attached(TcAttachType::Ingress), attached(TcAttachType::Egress)], [1, 1]);
            }
            AttachMode::Socket => assert!(packet_socket_on(pod.ifindex)),
        }
        let own: Vec<u32> = ids().into_iter().filter(|id| !before.contains(id)).collect();
        assert!(!own.is_empty());
        drop(tap);
        assert_eq!([attached(TcAttachType::Ingress), attached(TcAttachType::Egress)], [0, 0]);
        assert!(!packet_socket_on(pod.ifindex));
        // The kernel frees programs a moment after their last user.
        crate::harness::wait_until(|| ids().iter().all(|id| !own.contains(id)));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_tap_survives_its_interface() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let capture = Capture::start(&pod, mode, &settings(), None);
        pod.inside.send(&frame(EXPERIMENT, &[1; 50]));
        capture.wait_for(1);
        drop(pod);
        let (packets, counters) = capture.stop();
        assert_eq!(packets[0].data, frame(EXPERIMENT, &[1; 50]), "{mode:?}");
        assert_eq!(counters.from_pod.captured, 1);
    }
}
