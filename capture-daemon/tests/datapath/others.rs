//! Other programs on the interface work on before, during and after a capture, and see every packet.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use aya::programs::{
    ProgramInfo, SchedClassifier, TcAttachType,
    tc::{NlOptions, TcAttachOptions, qdisc_add_clsact},
};
use capture_daemon::datapath::AttachMode;

use crate::{
    harmless::programs,
    harness::{Capture, Collector, Pod, RING, modes, run, settings, turn, wait_until},
    packets::noise,
};

const SENT: u64 = 100;

fn exchange(pod: &Pod) {
    for seed in 0..SENT {
        pod.inside.send(&noise(100, seed));
        pod.outside.send(&noise(100, seed));
    }
}

/// Captures `SENT` packets of each direction in each of three taps, one after the other.
fn capture_thrice(pod: &Pod, mode: AttachMode) {
    for _ in 0..3 {
        let capture = Capture::start(pod, mode, &settings(), None);
        exchange(pod);
        capture.wait_for(2 * SENT);
        let (_, counters) = capture.stop();
        assert_eq!([counters.from_pod.captured, counters.to_pod.captured], [SENT, SENT], "{mode:?}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn another_tap_on_the_interface_keeps_seeing_everything() {
    let _turn = turn();
    for foreign in modes() {
        for mode in modes() {
            let pod = Pod::new();
            let other = Capture::start(&pod, foreign, &settings(), None);
            exchange(&pod);
            capture_thrice(&pod, mode);
            exchange(&pod);
            other.wait_for(10 * SENT);
            let (packets, counters) = other.stop();
            assert_eq!(packets.len() as u64, 10 * SENT, "{foreign:?} and {mode:?}");
            assert_eq!([counters.from_pod.seen, counters.to_pod.seen], [5 * SENT, 5 * SENT]);
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_clsact_filter_of_somebody_else_keeps_seeing_everything() {
    let _turn = turn();
    if !modes().contains(&AttachMode::Tcx) {
        // The foreign filter below is made of a tap's tc programs, which are loaded only where there is tcx.
        return;
    }
    for mode in modes() {
        let pod = Pod::new();
        let before: Vec<_> = programs().iter().map(ProgramInfo::id).collect();
        // A tap that counts, attached by hand in the classic way.
        let foreign = Capture::load(AttachMode::Tcx, &settings(), None, RING, Collector::default());
        qdisc_add_clsact(&pod.host).unwrap();
        let mut attached = Vec::new();
        for (name, hook) in [("tc_ingress", TcAttachType::Ingress), ("tc_egress", TcAttachType::Egress)] {
            let new = |program: &ProgramInfo| !before.contains(&program.id());
            let mut found = programs().into_iter().filter(new);
            let program = found.find(|program| program.name_as_str() == Some(name)).unwrap();
            let mut program = SchedClassifier::from_program_info(program, name.into()).unwrap();
            let options = TcAttachOptions::Netlink(NlOptions::default());
            program.attach_with_options(&pod.host, hook, options).unwrap();
            attached.push(program);
        }
        exchange(&pod);
        capture_thrice(&pod, mode);
        exchange(&pod);
        foreign.wait_for(10 * SENT);
        // The qdisc is untouched, and what hangs on it is still there.
        assert!(run(&format!("tc qdisc show dev {}", pod.host)).contains("clsact"));
        for hook in ["ingress", "egress"] {
            assert!(run(&format!("tc filter show dev {} {hook}", pod.host)).contains("bpf"));
        }
        drop(attached);
        let (packets, counters) = foreign.stop();
        assert_eq!(packets.len() as u64, 10 * SENT, "{mode:?}");
        assert_eq!([counters.from_pod.seen, counters.to_pod.seen], [5 * SENT, 5 * SENT]);
    }
}

struct Tcpdump {
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Tcpdump {
    fn start(host: &str) -> Self {
        let mut child = Command::new("tcpdump")
            .args(["-n", "-U", "--immediate-mode", "-s", "256", "-B", "8192", "-i", host, "-w", "-"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says "listening on ... bytes" when it is.
        let mut said = Vec::new();
        let errors = child.stderr.as_mut().unwrap();
        while !said.ends_with(b"bytes\n") {
            let mut byte = [0];
            assert_eq!(errors.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        let mut stdout = child.stdout.take().unwrap();
        let output = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&output);
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            loop {
                match stdout.read(&mut buffer).unwrap() {
                    0 => return,
                    read => written.lock().unwrap().extend_from_slice(&buffer[..read]),
                }
            }
        });
        Self { child, output, reader }
    }

    /// Number of packets in its output, which it has whenever the machine gives it its turn: waits for so many, and ends
    /// it.
    fn stop(mut self, expected: u64) -> u64 {
        wait_until(|| packets(&self.output.lock().unwrap()) >= expected);
        // SAFETY: takes no pointers; the child has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        self.reader.join().unwrap();
        self.child.wait().unwrap();
        packets(&self.output.lock().unwrap())
    }
}

/// Whole packets of a pcap file: a header of 24 bytes, then a header of 16 bytes for each packet.
fn packets(output: &[u8]) -> u64 {
    let (mut place, mut packets) = (24, 0);
    while let Some(length) = output.get(place + 8..place + 12) {
        place += 16 + u32::from_ne_bytes(length.try_into().unwrap()) as usize;
        packets += u64::from(place <= output.len());
    }
    packets
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn tcpdump_keeps_seeing_everything() {
    let _turn = turn();
    for mode in modes() {
        let pod = Pod::new();
        let tcpdump = Tcpdump::start(&pod.host);
        exchange(&pod);
        capture_thrice(&pod, mode);
        exchange(&pod);
        assert_eq!(tcpdump.stop(10 * SENT), 10 * SENT, "{mode:?}");
    }
}
