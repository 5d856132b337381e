//! Traffic whose every packet is known: UDP packets over IPv4 that carry a number each, counted from 0.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::blocks::Packet;
use crate::pods::{INTERFACE, Pod, mac_text};
use crate::process::{Process, program};

/// Bytes before the number: Ethernet, IPv4, UDP.
pub const HEADERS: usize = 14 + 20 + 8;

/// What one pod sends to another.
#[derive(Clone, Copy, Debug)]
pub struct Flood<'a> {
    /// The sender.
    pub from: &'a Pod,
    /// The receiver. Without a [`sink`] there, it answers with ICMP errors.
    pub to: &'a Pod,
    /// Destination port.
    pub port: u16,
    /// How many packets.
    pub packets: u64,
    /// For how long at most; until all are sent when none.
    pub seconds: Option<f64>,
    /// Bytes of each frame from the Ethernet header on, 60 at least.
    pub frame: usize,
    /// Packets a second; as fast as it goes when none.
    pub rate: Option<u64>,
    /// The core to send on.
    pub cpu: Option<usize>,
}

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Packets.
    pub packets: u64,
    /// Time it took.
    pub seconds: f64,
}

impl<'a> Flood<'a> {
    /// That many packets of 64 bytes, as fast as it goes.
    pub fn new(from: &'a Pod, to: &'a Pod, port: u16, packets: u64) -> Self {
        Self { from, to, port, packets, seconds: None, frame: 64, rate: None, cpu: None }
    }

    /// Sends them all.
    pub fn run(&self) -> Result<Sent> {
        self.start()?.wait()
    }

    /// Begins to send.
    pub fn start(&self) -> Result<Sending> {
        let mut command = self.from.command(program("podtap-traffic")?);
        command.args(["send", "--interface", INTERFACE]);
        command.args(["--from", &self.from.v4.to_string(), "--from-mac", &mac_text(self.from.mac)]);
        command.args(["--to", &self.to.v4.to_string(), "--to-mac", &mac_text(self.to.mac)]);
        command.args(["--port", &self.port.to_string(), "--packets", &self.packets.to_string()]);
        command.args(["--frame", &self.frame.to_string()]);
        if let Some(seconds) = self.seconds {
            command.args(["--seconds", &seconds.to_string()]);
        }
        if let Some(rate) = self.rate {
            command.args(["--rate", &rate.to_string()]);
        }
        if let Some(cpu) = self.cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Ok(Sending(Some(child.context("cannot start nsenter")?)))
    }
}

/// A sender at work; ended when dropped.
#[derive(Debug)]
pub struct Sending(Option<Child>);

impl Sending {
    /// Waits until all is sent.
    pub fn wait(mut self) -> Result<Sent> {
        let child = self.0.take().context("taken")?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "podtap-traffic: {}", output.status);
        let said: Value = serde_json::from_slice(&output.stdout)?;
        Ok(Sent {
            packets: said["packets"].as_u64().context("no count")?,
            seconds: said["seconds"].as_f64().context("no time")?,
        })
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // Fails only when it is over already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Takes what comes to a pod's UDP port and throws it away at the least cost.
pub fn sink(pod: &Pod, port: u16) -> Result<Process> {
    let mut command = pod.command(program("podtap-traffic")?);
    command.args(["sink", "--port", &port.to_string()]).stdout(Stdio::null());
    let process = Process::start(&mut command)?;
    // Bound when it shows in the pod's list of sockets.
    let wanted = format!(":{port:04X}");
    for _ in 0..1500 {
        let list = std::fs::read_to_string(format!("/proc/{}/net/udp6", process.id())).unwrap_or_default();
        let mut local = list.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        if local.any(|address| address.ends_with(&wanted)) {
            return Ok(process);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("the sink did not bind port {port}")
}

/// The numbers of the packets to that port, in the order of the file.
pub fn numbers(packets: &[Packet], port: u16) -> Vec<u64> {
    let wanted = packets.iter().filter(|packet| is_numbered(&packet.data, port));
    wanted.filter_map(|packet| Some(u64::from_be_bytes(*packet.data[HEADERS..].first_chunk()?))).collect()
}

fn is_numbered(frame: &[u8], port: u16) -> bool {
    frame.len() >= HEADERS + 8
        && frame[12..14] == [8, 0]
        && frame[14] == 0x45
        && frame[23] == 17
        && frame[36..38] == port.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::SOON;
    use crate::pods::Pods;
    use crate::process::{Process, output};
    use crate::scratch::Scratch;
    use crate::stalls::Stalls;
    use std::fs::File;
    use std::process::Command;
    use std::time::Instant;

    #[test]
    #[ignore = "needs root: cargo xtask test --kernel"]
    fn every_packet_sent_arrives_with_its_number() {
        let pods = Pods::with(&["a", "b"]).unwrap();
        let (a, b) = (pods.pod("a"), pods.pod("b"));
        let _sink = sink(b, 7).unwrap();
        let scratch = Scratch::new("traffic").unwrap();
        let file = scratch.path().join("t.pcap");
        let mut dump = Command::new("tcpdump");
        dump.args(["-i", &b.host_interface, "-n", "-B", "65536", "-c", "5000", "-w"]).arg(&file);
        let said = scratch.path().join("said");
        let mut dump =
            Process::start(dump.args(["udp or icmp"]).stderr(File::create(&said).unwrap())).unwrap();
        let deadline = Instant::now() + SOON;
        while !std::fs::read_to_string(&said).unwrap().contains("listening on") {
            assert!(Instant::now() < deadline && dump.running(), "tcpdump does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        let stalls = Stalls::watch();
        let sent = Flood { rate: Some(20_000), ..Flood::new(a, b, 7, 5_000) }.run().unwrap();
        assert_eq!(sent.packets, 5_000);
        // A quarter of a second, and what the machine took beside it.
        let most = 0.5 + stalls.so_far().as_secs_f64();
        assert!((0.2..most).contains(&sent.seconds), "{sent:?}");
        dump.wait(SOON).unwrap();
        let read = output(Command::new("tshark").args([
            "-r",
            file.to_str().unwrap(),
            "-T",
            "fields",
            "-e",
            "udp.payload",
        ]));
        let lines: Vec<String> = read.unwrap().lines().map(|line| line[..16].to_owned()).collect();
        let expected: Vec<String> = (0..5_000u64).map(|number| format!("{number:016x}")).collect();
        assert!(lines == expected, "{} packets", lines.len());
    }
}
