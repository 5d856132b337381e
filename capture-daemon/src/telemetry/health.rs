//! Whether the agent is alive, and whether it is ready: the answers behind `/healthz` and `/readyz`.
//!
//! Whoever asks for the one kills an agent that is not alive. So it depends on what takes packets out of the rings and on
//! nothing else: a disk that hangs stops writers, and the engine too, but an agent that still counts what is lost is better
//! than one that is started again and again.

use std::time::Duration;

use crate::pulse::Pulse;

/// A thread that is silent for this long is stuck: it has nothing to do that takes so long. The engine comes by ten
/// times a second and the consumer too; a writer hands at most 4 MiB to the disk at once.
pub const STUCK: Duration = Duration::from_secs(10);

/// What readiness depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    /// The kernel took the agent's programs.
    pub(super) loaded: bool,
    /// All requests that were there at the start are known.
    pub(super) listed: bool,
    /// The engine has looked at its sessions.
    pub(super) running: bool,
    /// Why nothing can be written, if so.
    pub(super) unwritable: Option<&'static str>,
    /// Why no records can be shown, if so.
    pub(super) records: Option<String>,
}

/// Threads that have been silent for `limit`, in words; nothing when all are alive.
#[must_use]
pub(super) fn stuck(pulses: &[Pulse], limit: Duration) -> Vec<String> {
    let silent = |pulse: &Pulse| {
        let silence = pulse.silence().filter(|silence| *silence >= limit)?;
        Some(format!("{} has been stuck for {} s", pulse.thread(), silence.as_secs()))
    };
    pulses.iter().filter_map(silent).collect()
}

impl Readiness {
    /// What is missing; nothing when requests are carried out.
    #[must_use]
    pub(super) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.loaded {
            missing.push("the kernel programs are not loaded yet".to_owned());
        }
        if !self.listed {
            missing.push("requests are not listed yet".to_owned());
        }
        if !self.running {
            missing.push("sessions are not looked after yet".to_owned());
        }
        missing.extend(self.unwritable.map(|why| format!("the data directory takes nothing: {why}")));
        missing.extend(self.records.clone());
        missing
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_silent_thread_is_named_and_a_resting_one_is_not() {
        let limit = Duration::from_millis(20);
        let pulses = ["engine", "consumer", "writer-0", "writer-1"].map(Pulse::new);
        let [engine, consumer, writer, _] = &pulses;
        // However long the machine lets this test wait, its last beat is not long ago.
        engine.beat_at(Instant::now() + Duration::from_secs(3600));
        consumer.beat();
        consumer.rest();
        writer.beat();
        // Beats are kept to the millisecond.
        std::thread::sleep(limit + Duration::from_millis(1));
        let told = stuck(&pulses, limit);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("writer-0 has been stuck for ") && told[0].ends_with(" s"), "{told:?}");
        assert_eq!(stuck(&pulses, Duration::from_secs(3600)), Vec::<String>::new());
    }

    #[test]
    fn an_agent_that_is_not_ready_says_all_that_is_missing() {
        let ready = Readiness { loaded: true, listed: true, running: true, unwritable: None, records: None };
        assert_eq!(ready.missing(), Vec::<String>::new());
        assert_eq!(Readiness::default().missing().len(), 3);
        let blind = Readiness { records: Some("no list".to_owned()), ..ready.clone() };
        assert_eq!(blind.missing(), ["no list"]);
        let broken = Readiness { unwritable: Some("it is mounted read-only"), ..ready };
        assert_eq!(broken.missing(), ["the data directory takes nothing: it is mounted read-only"]);
    }
}
