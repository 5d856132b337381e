//! A small HTTP server and a client that times each request, over one kept connection.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::json;

#[derive(Parser)]
enum Verb {
    /// Answer every request with 200 and 100 bytes
    Serve {
        #[arg(long)]
        port: u16,
        /// Core to run on
        #[arg(long)]
        cpu: usize,
    },
    /// One request after the other; prints the latencies in microseconds
    Load {
        #[arg(long)]
        server: Ipv4Addr,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        cpu: usize,
        #[arg(long)]
        seconds: f64,
    },
}

fn main() -> Result<()> {
    match Verb::parse() {
        Verb::Serve { port, cpu } => serve(port, cpu),
        Verb::Load { server, port, cpu, seconds } => {
            load(server, port, cpu, Duration::from_secs_f64(seconds))
        }
    }
}

fn bind_to(cpu: usize) -> Result<()> {
    // SAFETY: an all-zero set is an empty one; `CPU_SET` checks the number; the set is of the size given.
    let status = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    ensure!(status == 0, "no core {cpu}: {}", std::io::Error::last_os_error());
    Ok(())
}

const REQUEST: &[u8] = b"GET /small HTTP/1.1\r\nHost: server\r\nUser-Agent: podtap-bench\r\n\r\n";
const BODY: usize = 100;

fn serve(port: u16, cpu: usize) -> Result<()> {
    bind_to(cpu)?;
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n");
    let answer = [head.as_bytes(), &[b'x'; BODY]].concat();
    for connection in listener.incoming() {
        let mut connection = connection?;
        connection.set_nodelay(true)?;
        // One at a time: the load has one. It ends when the client does.
        while let Ok(true) = take_until(&mut connection, |said| said.ends_with(b"\r\n\r\n")) {
            if connection.write_all(&answer).is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// Reads until what came satisfies `whole`; false when the other side closed before.
fn take_until(connection: &mut TcpStream, whole: impl Fn(&[u8]) -> bool) -> Result<bool> {
    let mut said = [0; 2048];
    let mut length = 0;
    while !whole(&said[..length]) {
        match connection.read(&mut said[length..])? {
            0 if length == said.len() => bail!("too long"),
            0 => return Ok(false),
            more => length += more,
        }
    }
    Ok(true)
}

fn load(server: Ipv4Addr, port: u16, cpu: usize, time: Duration) -> Result<()> {
    bind_to(cpu)?;
    let mut connection = TcpStream::connect((server, port)).context("connecting")?;
    connection.set_nodelay(true)?;
    let mut latencies = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    let whole = |said: &[u8]| {
        let end = said.windows(4).position(|four| four == b"\r\n\r\n");
        end.is_some_and(|end| said.len() == end + 4 + BODY)
    };
    while start.elapsed() < time {
        let asked = Instant::now();
        connection.write_all(REQUEST)?;
        ensure!(take_until(&mut connection, whole)?, "the server hung up");
        latencies.push(asked.elapsed().as_nanos() as u64);
    }
    latencies.sort_unstable();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    ensure!(!latencies.is_empty(), "no request in that time");
    println!("{}", json!({"requests": latencies.len(), "p50": at(0.5), "p99": at(0.99), "p999": at(0.999)}));
    Ok(())
}
