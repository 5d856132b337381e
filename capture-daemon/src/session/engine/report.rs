//! What is kept and shown of sessions while they go on: counters are read, and `run.json` and records written.

use tracing::warn;

use super::Engine;
use crate::session::record::record;

impl Engine {
    /// Reads counters, lets files tell of loss, writes the records of sessions whose counters moved.
    pub(super) fn report(&mut self) {
        for session in self.sessions.values_mut() {
            let before = session.counted();
            let Some((tap, info)) = session.tap() else { continue };
            let now = match tap.counters() {
                Ok(now) => now,
                Err(error) => {
                    warn!(record = session.run.record, %error, "cannot read a tap's counters");
                    continue;
                }
            };
            let delivered = session.progress.delivered();
            let told = now != session.live || session.run.delivered != delivered;
            // Files end with what was last told here, and tell of loss. Where nothing moved there is no news, and each
            // telling wakes the consumer.
            if told {
                self.node.consumer.statistics(info.id, now);
            }
            session.live = now;
            session.compare(&self.node.finder, false);
            if told || before != session.counted() {
                session.run.delivered = delivered;
                session.moved = true;
                // A change of state that could not be shown is tried again; counters will be with the next ones.
                let _ = self.records.publish(&record(session));
            }
        }
    }

    /// Writes what changed to `run.json` and to the records; with `counters`, also runs of which only counters moved;
    /// with `again`, also what could not be written before, and runs of which only files are new: these may be many a
    /// second.
    pub(super) fn save_all(&mut self, counters: bool, again: bool) {
        for session in self.sessions.values_mut() {
            let news = std::mem::take(&mut session.unsaved) || again && session.files_moved;
            let changed = news || again && session.unwritten;
            if !(changed || counters && session.moved) {
                continue;
            }
            (session.moved, session.files_moved) = (false, false);
            let kept = serde_json::to_vec_pretty(&session.kept())
                .map_err(|error| error.to_string())
                .and_then(|json| session.dir.write_json(&json).map_err(|error| error.to_string()));
            if let (Err(error), false) = (&kept, session.unwritten) {
                // The files themselves are not harmed. Said once: it is tried until it succeeds.
                warn!(record = session.run.record, error, "cannot write run.json; trying on");
            }
            let show = news || changed && kept.is_ok();
            if show {
                // Only what is shown: what came since the counters were read is the next report's news.
                session.run.delivered = session.progress.delivered();
            }
            let shown = !show || session.run.expired || self.records.publish(&record(session));
            session.unwritten = kept.is_err() || !shown;
        }
    }
}
