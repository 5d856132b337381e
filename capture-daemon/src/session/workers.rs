//! Threads for what makes the engine wait: loading taps, attaching and detaching them.
//!
//! Attaching waits for the kernel (an RCU grace period, some 12 ms) and loading keeps a CPU busy (2 ms), so two
//! threads overlap the two. Filters are compiled elsewhere (`capture_filter::Compiler`): a hostile one takes long, and
//! must hold up no tap of another tenant.
//!
//! One tap is wanted at once. Many at a time would keep the CPUs from everybody else on the node, so while jobs pile up the
//! threads let others go first. And where many are to be attached by tcx, what waits for grace periods is left to one thread
//! that does nothing else, and on one CPU: grace periods that are asked for on several in turn last up to twice as long. Whatever
//! gives memory or files back starts a grace period too, of which the next one has to wait for the end, and attaching has the
//! lock that questions about links need: so that thread begins when all taps are loaded, and pauses while the engine works.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    process::setpriority_process,
    thread::{CpuSet, gettid, sched_getcpu, sched_setaffinity},
};

/// With more jobs than this waiting, the threads are in no hurry.
const MANY: usize = 8;
/// Their nice value then.
const POLITE: i32 = 10;
/// At least one of those that can wait has its turn in this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the engine gathers answers while many jobs wait: to deal with them disturbs attaching.
const MEANWHILE: Duration = Duration::from_millis(50);
/// The same while most of them wait to be attached.
const MEANWHILE_ATTACHING: Duration = Duration::from_millis(250);

type Job = Box<dyn FnOnce() + Send>;

/// A few threads that carry out jobs in the order of their arrival, and one for patient jobs, which come when no others wait
/// and nobody has them pause. They end when nobody can give them jobs any more.
#[derive(Clone)]
pub struct Workers {
    queue: Arc<Queue>,
    _open: Arc<Open>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    news: Condvar,
    /// For the patient one.
    rest: Condvar,
}

#[derive(Default)]
struct Jobs {
    now: VecDeque<Job>,
    patient: VecDeque<Job>,
    /// When the last one of those had its turn, or the first one came.
    last_patient: Option<Instant>,
    paused: bool,
    closed: bool,
}

impl Workers {
    /// Starts `threads` threads, and the patient one.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(threads: usize) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let open = Arc::new(Open(Arc::clone(&queue)));
        let start = |name, on_one_cpu, next: fn(&Queue) -> Option<(Job, bool)>| {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(name).spawn(move || {
                if on_one_cpu {
                    stay();
                }
                let mut priority = Priority::of_this_thread();
                while let Some((job, many)) = next(&queue) {
                    priority.polite(many);
                    job();
                }
            })
        };
        for number in 0..threads {
            start(format!("tap-{number}"), false, Queue::next)?;
        }
        start("attach".to_owned(), true, Queue::next_patient)?;
        Ok(Self { queue, _open: open })
    }

    /// Has `job` carried out. Each session has one job at a time, so the queue is as long as there are sessions.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.queue.lock().now.push_back(Box::new(job));
        self.queue.news.notify_one();
    }

    /// Has `job` carried out when no other waits and there is no pause, one such at a time; one in a second in any case.
    pub fn run_patiently(&self, job: impl FnOnce() + Send + 'static) {
        let mut jobs = self.queue.lock();
        jobs.last_patient.get_or_insert_with(Instant::now);
        jobs.patient.push_back(Box::new(job));
        drop(jobs);
        self.queue.rest.notify_one();
    }

    /// Whether patient jobs wait for now.
    pub fn pause(&self, paused: bool) {
        let mut jobs = self.queue.lock();
        jobs.paused = paused;
        if !paused && !jobs.patient.is_empty() {
            self.queue.rest.notify_one();
        }
    }

    /// How long the engine should gather answers before it deals with them all: as long as so many jobs wait that nobody
    /// is in a hurry.
    #[must_use]
    pub fn meanwhile(&self) -> Option<Duration> {
        let jobs = self.queue.lock();
        let pause = if jobs.patient.len() > MANY { MEANWHILE_ATTACHING } else { MEANWHILE };
        jobs.many().then_some(pause)
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job, and says whether there are many; none when there will be none any more.
    fn next(&self) -> Option<(Job, bool)> {
        let mut jobs = self.lock();
        loop {
            let many = jobs.many();
            if let Some(job) = jobs.now.pop_front() {
                if jobs.now.is_empty() {
                    self.rest.notify_one();
                }
                return Some((job, many));
            }
            if jobs.closed {
                return None;
            }
            jobs = self.news.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The same for a patient one.
    fn next_patient(&self) -> Option<(Job, bool)> {
        let mut jobs = self.lock();
        loop {
            let many = jobs.many();
            if let Some(job) = jobs.take_patient() {
                return Some((job, many));
            }
            if jobs.closed && jobs.patient.is_empty() {
                return None;
            }
            // Others may be at work for long.
            let patience =
                jobs.last_patient.map_or(Duration::MAX, |last| PATIENCE.saturating_sub(last.elapsed()));
            jobs = self.rest.wait_timeout(jobs, patience).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Jobs {
    fn many(&self) -> bool {
        self.now.len() + self.patient.len() > MANY
    }

    fn take_patient(&mut self) -> Option<Job> {
        let waited = self.last_patient.is_some_and(|last| last.elapsed() >= PATIENCE);
        if !(waited || self.now.is_empty() && !self.paused) {
            return None;
        }
        let job = self.patient.pop_front();
        self.last_patient = (!self.patient.is_empty()).then(Instant::now);
        job
    }
}

/// As long as somebody has this, jobs may come.
struct Open(Arc<Queue>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.news.notify_all();
        self.0.rest.notify_all();
    }
}

/// Has this thread stay on the CPU that it is on. It is only slower where it cannot.
fn stay() {
    let (mut here, cpu) = (CpuSet::new(), sched_getcpu());
    if cpu < CpuSet::MAX_CPU {
        here.set(cpu);
        let _ = sched_setaffinity(None, &here);
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    fn job(done: &Sender<&'static str>, name: &'static str) -> impl FnOnce() + Send + 'static {
        let done = done.clone();
        move || done.send(name).unwrap()
    }

    #[test]
    fn what_is_patient_comes_when_nothing_else_waits_and_there_is_no_pause() {
        let (done, order) = channel();
        // However slow the machine is, no second has passed since then.
        let ahead = Instant::now().checked_add(Duration::from_secs(3600));
        let mut jobs = Jobs { paused: true, last_patient: ahead, ..Jobs::default() };
        jobs.patient.push_back(Box::new(job(&done, "patient")));
        assert!(jobs.take_patient().is_none());
        jobs.paused = false;
        jobs.now.push_back(Box::new(job(&done, "now")));
        assert!(jobs.take_patient().is_none());
        jobs.now.clear();
        jobs.take_patient().unwrap()();
        assert!(jobs.take_patient().is_none());
        assert_eq!(order.try_iter().collect::<Vec<_>>(), ["patient"]);
    }

    #[test]
    fn one_patient_job_in_a_second_has_its_turn() {
        let (done, order) = channel();
        let mut jobs =
            Jobs { paused: true, last_patient: Instant::now().checked_sub(PATIENCE), ..Jobs::default() };
        jobs.patient.extend([Box::new(job(&done, "waited")) as Job, Box::new(job(&done, "waits"))]);
        jobs.take_patient().unwrap()();
        let next = jobs.last_patient.unwrap().checked_sub(PATIENCE);
        jobs.last_patient = next;
        jobs.take_patient().unwrap()();
        assert_eq!((jobs.last_patient, order.try_iter().count()), (None, 2));
    }

    #[test]
    fn a_patient_job_does_not_wait_for_the_end_of_a_pause_that_has_none() {
        let workers = Workers::start(1).unwrap();
        let (done, order) = channel();
        workers.pause(true);
        workers.run_patiently(job(&done, "patient"));
        assert_eq!(order.recv(), Ok("patient"));
    }

    #[test]
    fn threads_end_when_all_is_done() {
        let workers = Workers::start(2).unwrap();
        let (done, order) = channel();
        workers.run(job(&done, "now"));
        workers.run_patiently(job(&done, "patient"));
        drop((workers, done));
        let mut all: Vec<_> = order.iter().collect();
        all.sort_unstable();
        assert_eq!(all, ["now", "patient"]);
    }
}
