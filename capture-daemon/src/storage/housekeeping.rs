//! What is done once in a while: ask how full the disk is, count the data directory, give idle memory back.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tracing::warn;

use super::{accounts::Accounts, directory::DataDir, node::count, pool::Pool};

const ROUND: Duration = Duration::from_secs(1);
/// Idle buffers are looked for every so many rounds.
const TRIM: u32 = 5;
/// The directory is counted anew every so many rounds, in case somebody else removed files.
const RECOUNT: u32 = 600;
/// The same while there is no room: whoever waits for it should not wait long.
const RECOUNT_WHEN_FULL: u32 = 5;

/// The thread that does it; dropping this stops it.
pub(super) struct Housekeeping {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Housekeeping {
    pub(super) fn start(data: Arc<DataDir>, accounts: Arc<Accounts>, pool: Arc<Pool>) -> io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = thread::Builder::new().name("housekeeping".to_owned()).spawn(move || {
            pool.populate();
            for round in 1_u32.. {
                if stopped.recv_timeout(ROUND) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
                let full = accounts.is_crowded();
                let mut result = accounts.sample(data.as_fd(), data.path());
                if round.is_multiple_of(if full { RECOUNT_WHEN_FULL } else { RECOUNT }) {
                    result = result.and_then(|()| accounts.recount(|found| count(&data, found)));
                }
                if let Err(error) = result {
                    warn!(%error, "cannot tell how full the disk is");
                }
                if round.is_multiple_of(TRIM) {
                    pool.trim();
                }
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
