//! Tags that the kernel keeps beside the packet are in the block, where the wire had them.

use capture_common::TapSettings;

use crate::{
    harness::{Capture, Pod, filter, modes, run, settings, turn},
    packets::{QINQ, VLAN, noise, tagged},
};

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn tags_of_received_frames_are_put_back() {
    let _turn = turn();
    for mode in modes() {
        let frames = [
            noise(60, 1),
            tagged(&noise(60, 2), VLAN, 0x2007),
            tagged(&noise(1500, 3), QINQ, 9),
            tagged(&tagged(&noise(61, 4), VLAN, 11), QINQ, 0xe00c),
            tagged(&tagged(&noise(200, 5), VLAN, 11), VLAN, 12),
        ];
        let pod = Pod::new();
        let capture = Capture::start(&pod, mode, &settings(), None);
        for (number, frame) in frames.iter().enumerate() {
            pod.inside.send(frame);
            capture.wait_for(number as u64 + 1);
        }
        let (packets, counters) = capture.stop();
        let data: Vec<_> = packets.iter().map(|packet| packet.data.clone()).collect();
        assert_eq!(data, frames, "{mode:?}");
        for (packet, frame) in packets.iter().zip(&frames) {
            assert_eq!(packet.original as usize, frame.len());
        }
        assert_eq!(counters.from_pod.bytes as usize, frames.iter().map(Vec::len).sum::<usize>());
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn snap_length_counts_with_the_tag_in_the_frame() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        for snap_length in [1, 11, 12, 13, 14, 15, 16, 17, 18, 63, 64, 65, 84, 85] {
            let capture = Capture::start(&pod, mode, &TapSettings { snap_length, ..settings() }, None);
            let sent = tagged(&noise(60, 5), VLAN, 0xabcd);
            pod.inside.send(&sent);
            capture.wait_for(1);
            let (packets, _) = capture.stop();
            assert_eq!(
                packets[0].data,
                sent[..sent.len().min(snap_length as usize)],
                "{mode:?} {snap_length}"
            );
            assert_eq!(packets[0].original, 64);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn tags_of_forwarded_frames_are_put_back() {
    let _turn = turn();
    for mode in modes() {
        // A bridge passes the tag on as it got it, beside the packet.
        let (sender, pod) = (Pod::new(), Pod::new());
        let bridge = Bridge::new(&[&sender, &pod]);
        let capture = Capture::start(&pod, mode, &settings(), None);
        let frames = [
            noise(100, 6),
            tagged(&noise(100, 7), VLAN, 5),
            tagged(&tagged(&noise(60, 8), VLAN, 1), QINQ, 6),
        ];
        for frame in &frames {
            sender.inside.send(frame);
        }
        capture.wait_for(3);
        let (packets, counters) = capture.stop();
        let data: Vec<_> = packets.iter().map(|packet| packet.data.clone()).collect();
        assert_eq!(data, frames, "{mode:?}");
        assert_eq!(counters.to_pod.bytes, 100 + 104 + 68);
        drop(bridge);
    }
}

struct Bridge(String);

impl Bridge {
    fn new(pods: &[&Pod]) -> Self {
        let bridge = Self(format!("{}b", pods[0].host));
        run(&format!("ip link add {} type bridge mcast_snooping 0", bridge.0));
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", bridge.0), "1").unwrap();
        for pod in pods {
            run(&format!("ip link set {} master {}", pod.host, bridge.0));
        }
        run(&format!("ip link set {} up", bridge.0));
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        run(&format!("ip link del {}", self.0));
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn filter_sees_the_tag_that_the_file_has() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let wanted = filter("vlan 7");
        let capture = Capture::start(&pod, mode, &settings(), Some(&wanted));
        for frame in [noise(60, 1), tagged(&noise(60, 2), VLAN, 7), tagged(&noise(60, 3), VLAN, 8)] {
            pod.inside.send(&frame);
        }
        capture.wait_for(3);
        let (packets, _) = capture.stop();
        assert_eq!(packets.len(), 1, "{mode:?}");
        assert_eq!(packets[0].data, tagged(&noise(60, 2), VLAN, 7));
    }
}
