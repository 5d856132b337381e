//! Whether the API server answers. A watch may wait for minutes on a connection that the network has forgotten; whoever
//! looks after the lease asks every few seconds, and notices.

use std::future;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Lists of everything are not made more often than this, however often the server stops answering.
const ANEW: Duration = Duration::from_secs(60);

/// What whoever asks knows of the server.
#[derive(Debug)]
pub(crate) struct Contact {
    state: State,
    /// When it was last told that the server is back.
    told: Option<Instant>,
    back: watch::Sender<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Answers,
    /// It did not answer the last question.
    Silent,
    /// It answers again, and that is still to be told.
    Back,
}

/// Hears when the server answers again.
#[derive(Debug)]
pub(crate) struct Back(watch::Receiver<()>);

impl Contact {
    /// A server that answers until proven otherwise.
    pub(crate) fn new() -> (Self, Back) {
        let (back, heard) = watch::channel(());
        (Self { state: State::Answers, told: None, back }, Back(heard))
    }

    /// It did not answer.
    pub(crate) fn silent(&mut self) {
        self.state = State::Silent;
    }

    /// It answered, whatever it said.
    pub(crate) fn answered(&mut self, now: Instant) {
        let long_ago = self.told.is_none_or(|told| now.saturating_duration_since(told) >= ANEW);
        self.state = match self.state {
            State::Answers => State::Answers,
            State::Silent | State::Back if !long_ago => State::Back,
            State::Silent | State::Back => {
                self.told = Some(now);
                self.back.send_replace(());
                State::Answers
            }
        };
    }
}

impl Back {
    /// Waits until the server answers again after it did not: whatever was heard of it before may have ended unnoticed.
    pub(crate) async fn heard(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody asks any more.
            future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_the_server_is_back_is_told_once_and_not_more_often_than_lists_may_be_made() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (mut contact, mut back) = Contact::new();
        let mut told = || {
            let new = back.0.has_changed().unwrap();
            back.0.mark_unchanged();
            new
        };
        contact.answered(at(0));
        assert!(!told(), "it was never away");
        contact.silent();
        contact.silent();
        assert!(!told());
        contact.answered(at(10));
        assert!(told());
        contact.answered(at(12));
        assert!(!told());
        contact.silent();
        contact.answered(at(30));
        contact.answered(at(69));
        assert!(!told(), "too soon");
        contact.answered(at(70));
        assert!(told(), "but not forgotten");
        contact.answered(at(200));
        assert!(!told());
    }
}
