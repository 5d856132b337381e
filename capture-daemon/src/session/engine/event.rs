//! What the engine is told, by whom.

use crate::{
    datapath::Tap,
    session::{
        SessionId,
        node::{Answer, LoadFailure},
        sink::Limit,
        wanted::RequestEvent,
    },
    storage::{Recovered, StorageError, StorageEvent},
};

/// What the engine is told.
pub enum Event {
    /// By requests.
    Request(RequestEvent),
    /// There is news of links: [`crate::session::node::Node::link_news`] has it.
    Links,
    /// Of where pods are: a CNI has written or removed a result.
    Places,
    /// By a worker: a tap that was loaded ahead is running, or why not.
    Ahead {
        /// What it was loaded for.
        kind: u64,
        /// Bytes of its ring.
        ring: u32,
        /// The tap.
        tap: Box<Result<Tap, LoadFailure>>,
    },
    /// By a worker.
    Answer {
        /// Which session asked.
        session: SessionId,
        /// Which of its questions.
        ticket: u64,
        /// The answer.
        answer: Box<Answer>,
    },
    /// By the consumer: a limit is reached.
    Limit {
        /// Whose.
        session: SessionId,
        /// Which.
        limit: Limit,
    },
    /// By storage.
    Storage {
        /// Whose file.
        session: SessionId,
        /// What happened.
        news: StorageEvent,
    },
    /// Files that an earlier agent left open are whole again, or why not.
    Mended {
        /// Whose files.
        session: SessionId,
        /// Each by its name, with what became of it.
        files: Vec<(String, Result<Recovered, StorageError>)>,
    },
    /// The agent is to end: stop all taps, close all files.
    Shutdown,
}
