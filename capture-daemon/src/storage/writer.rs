//! The threads that write. A stream that has something waits in one queue; a thread takes the stream, writes what
//! waits there (up to 4 MiB, gathered into one write), and puts it back at the end if more has come. So a stream's
//! blocks stay in order, and streams take turns.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use super::lane::{Lane, Ready};
use crate::{delays::Delays, pulse::Pulse};

/// Starts a thread that serves streams until it is told to stop and the queue is empty. `pulse` beats while it writes,
/// and `writes` is told how long each turn of a stream took.
pub(super) fn start(
    number: usize,
    queue: Arc<Mutex<Receiver<Ready>>>,
    ready: Sender<Ready>,
    pulse: Pulse,
    writes: Delays,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(format!("writer-{number}")).spawn(move || {
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let rest = || queue.lock().unwrap_or_else(PoisonError::into_inner).try_recv();
        let serve = |lane: Arc<Lane>| {
            let begun = Instant::now();
            pulse.beat_at(begun);
            if lane.serve() {
                let _ = ready.send(Ready::Stream(lane));
            }
            pulse.rest();
            writes.add(begun.elapsed());
        };
        while let Ok(Ready::Stream(lane)) = next() {
            serve(lane);
        }
        loop {
            match rest() {
                Ok(Ready::Stream(lane)) => serve(lane),
                Ok(Ready::Stop) => {
                    // Meant for another thread.
                    let _ = ready.send(Ready::Stop);
                    return;
                }
                Err(_) => return,
            }
        }
    })
}
