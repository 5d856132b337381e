//! Texts of many tenants to filters: in children, a few at a time, each tenant in turn.
//!
//! A tenant has at most one child at work, and a handful of threads serve the tenants round robin: however slow or many
//! one tenant's texts are, another's waits for no more than the children that are at work already.

mod answer;
mod cache;
mod child;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

pub use child::{ChildCommand, WALL_CLOCK, child_main};

use self::cache::Cache;
use crate::{Filter, FilterError, text};

/// Children at work at once.
const CHILDREN: usize = 4;

/// Compiles texts that come from outside; shared by all sessions.
pub struct Compiler {
    shared: Arc<Shared>,
}

struct Shared {
    child: ChildCommand,
    queues: Mutex<Queues>,
    /// A tenant has become ready, or the end has come.
    changed: Condvar,
}

#[derive(Default)]
struct Queues {
    cache: Cache,
    /// What each tenant waits for; a tenant with a child at work has an entry, if an empty one.
    tenants: HashMap<Arc<str>, VecDeque<Job>>,
    /// Tenants that wait and have no child at work, in turn.
    ready: VecDeque<Arc<str>>,
    ended: bool,
}

type Done = Box<dyn FnOnce(Result<Arc<Filter>, FilterError>) + Send>;

struct Job {
    text: String,
    done: Done,
}

impl Compiler {
    /// A compiler whose child is this executable, started as `compile-filter`: its `main` must then call [`child_main`]
    /// before anything else.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn new() -> io::Result<Compiler> {
        Compiler::with_child(ChildCommand::default())
    }

    /// A compiler with another child.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn with_child(child: ChildCommand) -> io::Result<Compiler> {
        let shared = Arc::new(Shared { child, queues: Mutex::default(), changed: Condvar::new() });
        // Made first: when a thread cannot be started, dropping it ends the others.
        let compiler = Compiler { shared };
        for _ in 0..CHILDREN {
            let shared = compiler.shared.clone();
            thread::Builder::new().name("filter".to_owned()).spawn(move || shared.serve())?;
        }
        Ok(compiler)
    }

    /// Compiles a text for a tenant (a namespace, say) and calls `done` with what came of it: at once, from this thread,
    /// when that is known already, else from one of the compiler's threads. `done` must be quick: a thread waits for
    /// it.
    pub fn submit<F>(&self, tenant: &str, text: &str, done: F)
    where
        F: FnOnce(Result<Arc<Filter>, FilterError>) + Send + 'static,
    {
        if let Err(refusal) = text::check(text) {
            return done(Err(refusal));
        }
        let mut queues = self.shared.lock();
        if let Some(answer) = queues.cache.get(text) {
            drop(queues);
            return done(answer);
        }
        let job = Job { text: text.to_owned(), done: Box::new(done) };
        match queues.tenants.get_mut(tenant) {
            Some(waiting) => waiting.push_back(job),
            None => {
                let tenant: Arc<str> = tenant.into();
                queues.tenants.insert(tenant.clone(), VecDeque::from([job]));
                queues.ready.push_back(tenant);
                self.shared.changed.notify_one();
            }
        }
    }

    /// As [`Compiler::submit`], but waits for the answer, at most [`WALL_CLOCK`] for each text that the tenant has
    /// waiting, and for its turn.
    ///
    /// # Errors
    /// Any [`FilterError`].
    pub fn compile(&self, tenant: &str, text: &str) -> Result<Arc<Filter>, FilterError> {
        let (sender, receiver) = mpsc::channel();
        self.submit(tenant, text, move |answer| {
            // Nobody but this call waits, and it does until the answer is there.
            let _ = sender.send(answer);
        });
        receiver
            .recv()
            .unwrap_or_else(|_| Err(FilterError::Unavailable { reason: "it has ended".to_owned() }))
    }
}

impl Drop for Compiler {
    fn drop(&mut self) {
        let mut queues = self.shared.lock();
        queues.ended = true;
        queues.tenants.clear();
        queues.ready.clear();
        self.shared.changed.notify_all();
    }
}

impl Shared {
    /// Nothing that panics runs under the lock.
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread: one child at a time.
    fn serve(&self) {
        while let Some((tenant, job)) = self.next() {
            let known = self.lock().cache.get(&job.text);
            let answer = known.unwrap_or_else(|| self.work(&job.text));
            self.finished(&tenant);
            // A panic there has been told by its hook; it must not take this thread along.
            let _ = panic::catch_unwind(AssertUnwindSafe(|| (job.done)(answer)));
        }
    }

    fn work(&self, text: &str) -> Result<Arc<Filter>, FilterError> {
        let answer =
            self.child.ask(text).and_then(|classic| Filter::from_classic(text, classic)).map(Arc::new);
        if answer.as_ref().err().is_none_or(FilterError::is_refusal) {
            self.lock().cache.insert(text, answer.clone());
        }
        answer
    }

    /// The next tenant's next text; `None` in the end.
    fn next(&self) -> Option<(Arc<str>, Job)> {
        let mut queues = self.lock();
        loop {
            if queues.ended {
                return None;
            }
            if let Some(tenant) = queues.ready.pop_front()
                && let Some(job) = queues.tenants.get_mut(&tenant).and_then(VecDeque::pop_front)
            {
                return Some((tenant, job));
            }
            queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The tenant has no child at work any more: back into the queue, at its end, if it waits for more.
    fn finished(&self, tenant: &Arc<str>) {
        let mut queues = self.lock();
        match queues.tenants.get(tenant) {
            Some(waiting) if !waiting.is_empty() => {
                queues.ready.push_back(tenant.clone());
                self.changed.notify_one();
            }
            _ => {
                queues.tenants.remove(tenant);
            }
        }
    }
}
