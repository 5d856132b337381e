//! A pod (a network namespace with a veth), raw sockets on both of its ends, and a capture of it in memory.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use capture_common::{DIRECTION_BOTH, MAX_CAPTURED, TapSettings};
use capture_daemon::datapath::{AttachMode, BlockSink, Clock, Consumer, Counters, Loader, Take, Tap};
use capture_filter::Filter;

use crate::packets::Packet;

/// Tests take turns: they count packets and measure rates on few CPUs.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn loader() -> &'static Loader {
    static LOADER: OnceLock<Loader> = OnceLock::new();
    LOADER.get_or_init(|| Loader::new(None).unwrap())
}

/// Every attach mode that this kernel has.
pub(crate) fn modes() -> Vec<AttachMode> {
    match loader().mode() {
        AttachMode::Tcx => vec![AttachMode::Tcx, AttachMode::Socket],
        AttachMode::Socket => vec![AttachMode::Socket],
    }
}

pub(crate) fn settings() -> TapSettings {
    TapSettings {
        snap_length: MAX_CAPTURED,
        headers_only: 0,
        direction: DIRECTION_BOTH,
        sample: 1,
        filtered: 0,
        tick_ns: 0,
        packet_cost: 0,
        packet_burst: 0,
        byte_cost: 0,
        byte_burst: 0,
        wakeup_bytes: 256 << 10,
    }
}

pub(crate) fn filter(expression: &str) -> Filter {
    Filter::from_classic(expression, capture_filter::compile(expression).unwrap()).unwrap()
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A quiet veth pair: one end here, one in a network namespace of its own. Nothing is sent on it but by the tests.
pub(crate) struct Pod {
    pub(crate) namespace: String,
    /// Interface on the host.
    pub(crate) host: String,
    pub(crate) ifindex: u32,
    /// Sends as the pod.
    pub(crate) inside: RawSocket,
    /// Sends to the pod.
    pub(crate) outside: RawSocket,
    _cleanup: Cleanup,
}

/// Takes the links and the namespace away, also when a test fails in between.
struct Cleanup {
    namespace: String,
    host: String,
}

/// Name of the pod's own end.
pub(crate) const INSIDE: &str = "eth0";

impl Pod {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("ptk{}-{number}", std::process::id());
        let host = format!("pk{}x{number}", std::process::id());
        run(&format!("ip netns add {namespace}"));
        let cleanup = Cleanup { namespace: namespace.clone(), host: host.clone() };
        run(&format!("ip link add {host} type veth peer name {INSIDE} netns {namespace}"));
        let in_pod = |command: &str| run(&format!("ip netns exec {namespace} {command}"));
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{host}/disable_ipv6"), "1").unwrap();
        in_pod(&format!("sysctl -q -w net.ipv6.conf.{INSIDE}.disable_ipv6=1"));
        in_pod(&format!("ip link set {INSIDE} up"));
        run(&format!("ip link set {host} up"));
        // Until then, packets vanish in a queue that is not there yet.
        wait_until(|| {
            let state = std::fs::read_to_string(format!("/sys/class/net/{host}/operstate")).unwrap();
            state.trim() == "up" && in_pod(&format!("cat /sys/class/net/{INSIDE}/operstate")).trim() == "up"
        });
        let ifindex = index(&host);
        let inside = within(&namespace, || RawSocket::open(index(INSIDE)));
        Self { inside, outside: RawSocket::open(ifindex), namespace, host, ifindex, _cleanup: cleanup }
    }

    /// How many packets the host's interface took from the pod. A flood may overrun the queue before it: what is lost
    /// there comes to no tap.
    pub(crate) fn received(&self) -> u64 {
        let path = format!("/sys/class/net/{}/statistics/rx_packets", self.host);
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }

    /// Runs a command in the pod.
    pub(crate) fn exec(&self, command: &str) -> String {
        run(&format!("ip netns exec {} {command}", self.namespace))
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", &self.host]).output();
        let _ = Command::new("ip").args(["netns", "del", &self.namespace]).output();
    }
}

pub(crate) fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited too long");
        thread::sleep(Duration::from_millis(1));
    }
}

pub(crate) fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: a terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "{name:?}");
    index
}

/// Runs `work` in a thread that is in the namespace.
pub(crate) fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                let file = File::open(format!("/run/netns/{namespace}")).unwrap();
                // SAFETY: affects this thread only.
                assert_eq!(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
                work()
            })
            .join()
            .unwrap()
    })
}

/// Sends frames as they are.
pub(crate) struct RawSocket(OwnedFd);

impl RawSocket {
    pub(crate) fn open(ifindex: u32) -> Self {
        // SAFETY: takes no pointers; the descriptor is new.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: the descriptor is new; all zero is a valid address.
        let (socket, mut address) =
            unsafe { (Self(OwnedFd::from_raw_fd(fd)), std::mem::zeroed::<libc::sockaddr_ll>()) };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = ifindex as i32;
        let length = size_of_val(&address) as u32;
        // SAFETY: the address is of the size given.
        let bound = unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        socket.set(libc::SOL_SOCKET, libc::SO_SNDBUF, 16 << 20);
        socket
    }

    fn set(&self, level: i32, option: i32, value: i32) {
        let length = size_of_val(&value) as u32;
        // SAFETY: the value is of the size given.
        let set =
            unsafe { libc::setsockopt(self.0.as_raw_fd(), level, option, (&raw const value).cast(), length) };
        assert_eq!(set, 0, "{}", io::Error::last_os_error());
    }

    /// Sends one frame, again when there is no buffer for it.
    pub(crate) fn send(&self, frame: &[u8]) {
        loop {
            // SAFETY: the frame is of the size given.
            let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent == frame.len() as isize {
                return;
            }
            let error = io::Error::last_os_error();
            assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS), "{error}");
        }
    }

    /// Sends one large segment of TCP over IPv6 whole, as a card that cuts it would get it (`virtio_net_hdr`).
    pub(crate) fn send_gso(&self, frame: &[u8], headers: u16, tcp_offset: u16) {
        const NEEDS_CHECKSUM: u8 = 1;
        const TCPV6: u8 = 4;
        const SEGMENT: u16 = 1400;
        const TCP_CHECKSUM: u16 = 16;
        let mut bytes = vec![NEEDS_CHECKSUM, TCPV6];
        for word in [headers, SEGMENT, tcp_offset, TCP_CHECKSUM] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(frame);
        const PACKET_VNET_HDR: i32 = 15;
        self.set(libc::SOL_PACKET, PACKET_VNET_HDR, 1);
        self.send(&bytes);
        self.set(libc::SOL_PACKET, PACKET_VNET_HDR, 0);
    }
}

/// What a sink was told.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) blocks: Vec<Vec<u8>>,
    pub(crate) finished: Option<Counters>,
}

/// Keeps everything in memory.
#[derive(Clone, Default)]
pub(crate) struct Collector {
    pub(crate) seen: Arc<Mutex<Seen>>,
    /// Refuse what comes.
    pub(crate) busy: Arc<AtomicBool>,
    /// Only count, for floods.
    pub(crate) keep_nothing: bool,
    pub(crate) count: Arc<AtomicU32>,
    /// How often the consumer has looked at its rings.
    pub(crate) ticks: Arc<AtomicU32>,
}

impl BlockSink for Collector {
    fn block(&mut self, block: &[u8]) -> Take {
        if self.busy.load(Ordering::Relaxed) {
            return Take::Busy;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        if !self.keep_nothing {
            self.seen.lock().unwrap().blocks.push(block.to_vec());
        }
        Take::Taken
    }
    fn tick(&mut self, _: Instant) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }
    fn statistics(&mut self, _: &Counters) {}
    fn finish(self: Box<Self>, counters: &Counters) {
        self.seen.lock().unwrap().finished = Some(*counters);
    }
}

pub(crate) fn consumer() -> &'static Consumer {
    static CONSUMER: OnceLock<Consumer> = OnceLock::new();
    CONSUMER.get_or_init(|| Consumer::start(256 << 10).unwrap())
}

pub(crate) fn clock() -> &'static Clock {
    static CLOCK: OnceLock<Clock> = OnceLock::new();
    CLOCK.get_or_init(|| Clock::start().unwrap())
}

/// A tap whose ring is being read into memory.
pub(crate) struct Capture {
    pub(crate) tap: Tap,
    pub(crate) sink: Collector,
    id: u64,
}

pub(crate) const RING: u32 = 4 << 20;

impl Capture {
    /// Loaded and running, not attached.
    pub(crate) fn load(
        mode: AttachMode,
        settings: &TapSettings,
        filter: Option<&Filter>,
        ring: u32,
        sink: Collector,
    ) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let mut tap = loader().load(filter, settings, ring, mode).unwrap();
        let id = u64::from(NUMBER.fetch_add(1, Ordering::Relaxed));
        consumer().add(id, Tap::ring(&mut tap).unwrap(), Box::new(sink.clone()));
        clock().register(tap.control());
        tap.control().set_halted(false);
        Self { tap, sink, id }
    }

    /// Attached to a pod.
    pub(crate) fn start(
        pod: &Pod,
        mode: AttachMode,
        settings: &TapSettings,
        filter: Option<&Filter>,
    ) -> Self {
        let mut capture = Self::load(mode, settings, filter, RING, Collector::default());
        capture.tap.attach(pod.ifindex).unwrap();
        capture
    }

    /// Waits until the tap has seen this many packets.
    pub(crate) fn wait_for(&self, packets: u64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.tap.counters().unwrap().total().seen < packets {
            assert!(Instant::now() < deadline, "{:?} and not {packets}", self.tap.counters());
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Detaches, lets the ring drain, and checks that the counters add up.
    pub(crate) fn stop(mut self) -> (Vec<Packet>, Counters) {
        self.tap.detach();
        self.drain()
    }

    pub(crate) fn drain(self) -> (Vec<Packet>, Counters) {
        let counters = self.tap.counters().unwrap();
        consumer().remove(self.id, counters);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut seen = self.sink.seen.lock().unwrap();
            if let Some(last) = seen.finished {
                assert_eq!(last, counters);
                let blocks = std::mem::take(&mut seen.blocks);
                let total = counters.total();
                for direction in [counters.from_pod, counters.to_pod] {
                    assert!(direction.matched <= direction.seen, "{direction:?}");
                    let outcomes = direction.captured
                        + direction.sampled_out
                        + direction.rate_limited
                        + direction.ring_full;
                    assert_eq!(direction.matched, outcomes, "{direction:?}");
                }
                assert_eq!(u64::from(self.sink.count.load(Ordering::Relaxed)), total.captured);
                return (blocks.iter().map(|block| Packet::parse(block)).collect(), counters);
            }
            drop(seen);
            assert!(Instant::now() < deadline, "the sink was not finished");
            thread::sleep(Duration::from_millis(1));
        }
    }
}
