//! A way to a server on which the network forgets connections when a test says so.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// How long the server may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Takes connections on an address of its own and passes on what goes over them, until it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    /// Nothing gets through.
    cut: AtomicBool,
    over: AtomicBool,
    connections: Mutex<Vec<Arc<Connection>>>,
}

#[derive(Debug)]
struct Connection {
    ends: [TcpStream; 2],
    /// What comes goes nowhere, and that one end closes it nobody tells the other.
    forgotten: AtomicBool,
}

impl Relay {
    /// The way to that server.
    pub fn to(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (cut, over, connections) = (false.into(), false.into(), Mutex::default());
        let shared = Arc::new(Shared { server, cut, over, connections });
        let relay = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for from in listener.incoming().flatten() {
                if shared.over.load(Relaxed) {
                    return;
                }
                // Whoever is not let through hears that the connection has ended.
                let _ = shared.connect(from);
            }
        });
        Ok(relay)
    }

    /// Where it takes connections.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has all connections forgotten: they stay as they are, for ever as it seems. Until it is [mended](Self::mend),
    /// those that begin are forgotten too.
    pub fn forget(&self) {
        self.shared.cut.store(true, Relaxed);
        let connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.iter().for_each(|connection| connection.forgotten.store(true, Relaxed));
    }

    /// Lets new connections through again.
    pub fn mend(&self) {
        self.shared.cut.store(false, Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        // The thread that takes connections looks when the next one comes.
        let _ = TcpStream::connect_timeout(&self.address, CONNECT);
        let connections = self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner);
        for end in connections.iter().flat_map(|connection| &connection.ends) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn connect(&self, from: TcpStream) -> Result<()> {
        let cut = self.cut.load(Relaxed);
        // From here on both ends know of it, so the network may have been cut or mended when this is done.
        let to = TcpStream::connect_timeout(&self.server, CONNECT)?;
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let forgotten = cut || self.cut.load(Relaxed);
        let connection = Arc::new(Connection { ends: [from, to], forgotten: forgotten.into() });
        for direction in [[0, 1], [1, 0]] {
            let connection = Arc::clone(&connection);
            thread::spawn(move || connection.pass_on(direction));
        }
        connections.push(connection);
        Ok(())
    }
}

impl Connection {
    fn pass_on(&self, [from, to]: [usize; 2]) {
        let (mut from, mut to) = (&self.ends[from], &self.ends[to]);
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut bytes) {
            if !self.forgotten.load(Relaxed) && to.write_all(&bytes[..read]).is_err() {
                break;
            }
        }
        if !self.forgotten.load(Relaxed) {
            let _ = to.shutdown(Shutdown::Write);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn connections_pass_on_what_comes_until_they_are_forgotten() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Relay::to(server.local_addr().unwrap()).unwrap();
        let pair = || {
            let client = TcpStream::connect(relay.address()).unwrap();
            client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            (client, server.accept().unwrap().0)
        };
        let says = |mut from: &TcpStream, mut to: &TcpStream| {
            from.write_all(b"hello").unwrap();
            to.read(&mut [0; 5]).map_err(|error| error.kind())
        };
        let (old, old_server) = pair();
        old_server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        assert_eq!(says(&old, &old_server), Ok(5));
        assert_eq!(says(&old_server, &old), Ok(5));
        relay.forget();
        let (during, during_server) = pair();
        relay.mend();
        for (from, to) in [(&old, &old_server), (&old_server, &old), (&during_server, &during)] {
            assert_eq!(says(from, to), Err(ErrorKind::WouldBlock));
        }
        drop(old_server);
        assert_eq!((&old).read(&mut [0; 5]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
        let (new, new_server) = pair();
        assert_eq!(says(&new_server, &new), Ok(5));
        drop(new_server);
        assert_eq!((&new).read(&mut [0; 5]).unwrap(), 0, "the end is passed on");
    }
}
