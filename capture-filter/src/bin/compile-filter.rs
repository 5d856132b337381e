//! The compiler's child as a program of its own, for tests; the agent is its own child.
//!
//! With an argument it tries what the sandbox must not allow, and says what came of it.

use std::io::Write;
use std::process::{Command, ExitCode};

use capture_filter::{child_main, sandbox};

fn main() -> ExitCode {
    let Some(attempt) = std::env::args().nth(1) else { return child_main() };
    if let Err(error) = sandbox::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    let outcome = match attempt.as_str() {
        "socket" => std::net::UdpSocket::bind("127.0.0.1:0").map(drop),
        "unix-socket" => std::os::unix::net::UnixDatagram::unbound().map(drop),
        "exec" => Command::new("/bin/true").status().map(drop),
        "write" => std::fs::File::create("/tmp/never-written").map(drop),
        "append" => std::fs::File::options().append(true).open("/dev/null").map(drop),
        "thread" => std::thread::Builder::new().spawn(|| {}).map(drop),
        "signal" => rustix::process::test_kill_process(rustix::process::getpid()).map_err(Into::into),
        "secret" => std::fs::read("/etc/shadow").map(drop),
        "services" => std::fs::read("/etc/services").map(drop),
        "memory" => {
            let mut bytes: Vec<u8> = Vec::new();
            bytes.try_reserve(sandbox::ADDRESS_SPACE as usize).map_err(std::io::Error::other)
        }
        "spin" => loop {
            std::hint::spin_loop();
        },
        "status" => {
            std::fs::read("/proc/self/status").and_then(|status| std::io::stdout().write_all(&status))
        }
        _ => Err(std::io::Error::other("no such attempt")),
    };
    match outcome {
        Ok(()) => println!("allowed"),
        Err(error) => println!("refused: {error}"),
    }
    ExitCode::SUCCESS
}
