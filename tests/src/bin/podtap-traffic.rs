//! Sends numbered packets from inside a pod at any rate up to what a core can do, or takes them and drops them.

use std::mem;
use std::net::Ipv4Addr;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use podtap_tests::traffic::HEADERS;

#[derive(Parser)]
enum Verb {
    /// Send UDP packets as whole frames
    Send(Send),
    /// Bind a UDP port and drop all that comes
    Sink {
        #[arg(long)]
        port: u16,
    },
}

#[derive(clap::Args)]
struct Send {
    #[arg(long)]
    interface: String,
    #[arg(long)]
    from: Ipv4Addr,
    #[arg(long, value_parser = mac)]
    from_mac: [u8; 6],
    #[arg(long)]
    to: Ipv4Addr,
    #[arg(long, value_parser = mac)]
    to_mac: [u8; 6],
    #[arg(long)]
    port: u16,
    /// How many; without it, as many as go in the time
    #[arg(long, required_unless_present = "seconds")]
    packets: Option<u64>,
    /// For how long at most
    #[arg(long)]
    seconds: Option<f64>,
    /// Bytes of a frame, from the Ethernet header on
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(60..))]
    frame: u16,
    /// Packets a second
    #[arg(long)]
    rate: Option<u64>,
    /// Core to run on
    #[arg(long)]
    cpu: Option<usize>,
}

fn main() -> Result<()> {
    match Verb::parse() {
        Verb::Send(send) => {
            let (packets, seconds) = send.run()?;
            println!("{{\"packets\":{packets},\"seconds\":{seconds:.6}}}");
            Ok(())
        }
        Verb::Sink { port } => sink(port),
    }
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().context("not six bytes")
}

/// Packets handed to the kernel in one call.
const BATCH: usize = 64;

impl Send {
    fn run(&self) -> Result<(u64, f64)> {
        if let Some(cpu) = self.cpu {
            pin(cpu)?;
        }
        let socket = packet_socket(&self.interface)?;
        let mut frames: Vec<Vec<u8>> = vec![self.template(); BATCH];
        let mut vectors: Vec<libc::iovec> = frames
            .iter_mut()
            .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: all-zero is a valid mmsghdr: no name, no control data.
                let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let total = self.packets.unwrap_or(u64::MAX);
        let start = Instant::now();
        let deadline = self.seconds.map(|seconds| start + Duration::from_secs_f64(seconds));
        // At a given rate, what is due every millisecond goes together.
        let step = self.rate.map_or(BATCH as u64, |rate| (rate / 1000).clamp(1, BATCH as u64));
        let mut sent = 0u64;
        while sent < total && deadline.is_none_or(|deadline| Instant::now() < deadline) {
            if let Some(rate) = self.rate {
                let due = start + Duration::from_secs_f64(sent as f64 / rate as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let batch = step.min(total - sent) as usize;
            for (number, frame) in (sent..).zip(&mut frames[..batch]) {
                frame[HEADERS..HEADERS + 8].copy_from_slice(&number.to_be_bytes());
            }
            // SAFETY: `messages` points to `vectors`, those to `frames`; all live and stay where they are.
            let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), batch as u32, 0) };
            match u64::try_from(done) {
                Ok(done) => sent += done,
                Err(_) => {
                    let error = std::io::Error::last_os_error();
                    // The receiver's backlog is full.
                    if error.raw_os_error() != Some(libc::ENOBUFS) {
                        return Err(error).context("sendmmsg");
                    }
                }
            }
        }
        Ok((sent, start.elapsed().as_secs_f64()))
    }

    fn template(&self) -> Vec<u8> {
        let length = usize::from(self.frame);
        let mut frame = vec![0; length];
        frame[..6].copy_from_slice(&self.to_mac);
        frame[6..12].copy_from_slice(&self.from_mac);
        frame[12] = 8;
        let ip = &mut frame[14..];
        ip[0] = 0x45;
        ip[2..4].copy_from_slice(&(self.frame - 14).to_be_bytes());
        ip[8] = 64;
        ip[9] = 17;
        ip[12..16].copy_from_slice(&self.from.octets());
        ip[16..20].copy_from_slice(&self.to.octets());
        let sum: u32 = ip[..20].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&folded.to_be_bytes());
        let udp = &mut ip[20..];
        udp[..2].copy_from_slice(&40_000u16.to_be_bytes());
        udp[2..4].copy_from_slice(&self.port.to_be_bytes());
        udp[4..6].copy_from_slice(&(self.frame - 34).to_be_bytes());
        // Checksum 0: not computed, which IPv4 allows.
        frame
    }
}

fn pin(cpu: usize) -> Result<()> {
    // SAFETY: an all-zero set is an empty one; `CPU_SET` checks the number.
    let status = unsafe {
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    ensure!(status == 0, "no core {cpu}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// A socket that sends frames on that interface, past its queueing discipline.
fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: a string that ends in 0.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no interface {interface}");
    // SAFETY: takes no pointer. Protocol 0: it receives nothing.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        bail!("socket: {}", std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: all-zero is a valid address.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = i32::try_from(index)?;
    let length = size_of_val(&address) as u32;
    // SAFETY: the address is of that length and outlives the call.
    let bound = unsafe { libc::bind(raw, (&raw const address).cast(), length) };
    ensure!(bound == 0, "bind: {}", std::io::Error::last_os_error());
    option(raw, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)?;
    Ok(socket)
}

fn option<T>(socket: i32, level: i32, name: i32, value: &T) -> Result<()> {
    let length = size_of::<T>() as u32;
    // SAFETY: the value is of that length and outlives the call.
    let status = unsafe { libc::setsockopt(socket, level, name, (&raw const *value).cast(), length) };
    ensure!(status == 0, "setsockopt {name}: {}", std::io::Error::last_os_error());
    Ok(())
}

fn sink(port: u16) -> Result<()> {
    let socket = UdpSocket::bind(("::", port))?;
    // Classic BPF that keeps 0 bytes of every packet: dropped before it is queued.
    let mut code = [libc::sock_filter { code: 6, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    option(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)?;
    loop {
        std::thread::park();
    }
}
