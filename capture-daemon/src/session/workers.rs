//! Threads for what makes the engine wait: loading taps, attaching and detaching them.
//!
//! Attaching waits for the kernel (an RCU grace period, some 12 ms) and loading keeps a CPU busy (2 ms), so two
//! threads overlap the two. Filters are compiled elsewhere (`capture_filter::Compiler`): a hostile one takes long, and
//! must hold up no tap of another tenant.
//!
//! One tap is wanted at once. Many at a time would keep the CPUs from everybody else on the node, so while jobs pile up the
//! threads let others go first.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use rustix::{process::setpriority_process, thread::gettid};

/// With more jobs than this waiting, the threads are in no hurry.
const MANY: usize = 8;
/// Their nice value then.
const POLITE: i32 = 10;

type Job = Box<dyn FnOnce() + Send>;

/// A few threads that carry out jobs in the order of their arrival.
#[derive(Clone, Debug)]
pub struct Workers {
    jobs: mpsc::Sender<Job>,
    waiting: Arc<AtomicUsize>,
}

impl Workers {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (jobs, taken) = mpsc::channel::<Job>();
        let (taken, waiting) = (Arc::new(Mutex::new(taken)), Arc::new(AtomicUsize::new(0)));
        for number in 0..threads {
            let (taken, waiting) = (Arc::clone(&taken), Arc::clone(&waiting));
            thread::Builder::new().name(format!("tap-{number}")).spawn(move || {
                let mut priority = Priority::of_this_thread();
                loop {
                    let job = taken.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    priority.polite(waiting.fetch_sub(1, Ordering::Relaxed) > MANY);
                    job();
                }
            })?;
        }
        Ok(Self { jobs, waiting })
    }

    /// Has `job` carried out. Each session has one job at a time, so the queue is as long as there are sessions.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The threads live as long as this sender.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Whether so many jobs wait that nobody is in a hurry.
    #[must_use]
    pub fn many(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > MANY
    }
}

/// Whether a thread lets others go first.
struct Priority {
    polite: bool,
    /// Without the right to it (`CAP_SYS_NICE`) a thread that has stood back never gets its turn back.
    fixed: bool,
}

impl Priority {
    fn of_this_thread() -> Self {
        let fixed = setpriority_process(Some(gettid()), -1).is_err();
        if !fixed {
            let _ = setpriority_process(Some(gettid()), 0);
        }
        Self { polite: false, fixed }
    }

    fn polite(&mut self, polite: bool) {
        if self.polite != polite && !self.fixed {
            self.polite = polite;
            let _ = setpriority_process(Some(gettid()), if polite { POLITE } else { 0 });
        }
    }
}
