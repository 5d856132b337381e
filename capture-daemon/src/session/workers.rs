//! Threads for what makes the engine wait: loading taps, attaching and detaching them.
//!
//! Attaching waits for the kernel (an RCU grace period, some 12 ms) and loading keeps a CPU busy (2 ms), so two
//! threads overlap the two. Filters are compiled elsewhere (`capture_filter::Compiler`): a hostile one takes long, and
//! must hold up no tap of another tenant.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

type Job = Box<dyn FnOnce() + Send>;

/// A few threads that carry out jobs in the order of their arrival.
#[derive(Clone, Debug)]
pub struct Workers {
    jobs: mpsc::Sender<Job>,
}

impl Workers {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..threads {
            let waiting = Arc::clone(&waiting);
            thread::Builder::new().name(format!("tap-{number}")).spawn(move || {
                loop {
                    let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match job {
                        Ok(job) => job(),
                        Err(mpsc::RecvError) => return,
                    }
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// Has `job` carried out. Each session has one job at a time, so the queue is as long as there are sessions.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads live as long as this sender.
        let _ = self.jobs.send(Box::new(job));
    }
}
