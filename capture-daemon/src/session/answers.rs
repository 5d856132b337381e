//! The transitions that answers bring: a worker is done with a tap, or storage has news of files.

use std::time::Instant;

use capture_api::{Refusal, RunState};
use jiff::Timestamp;
use tracing::warn;

use super::{
    Phase, Session, TapInfo,
    ending::{Ending, storage_failed},
    files::File,
    node::{Answer, AttachFailure, LoadFailure, Node},
};
use crate::{
    datapath::{Counters, Tap},
    storage::{Recovered, StorageError, StorageEvent},
};

impl Session {
    /// A worker answered.
    pub(super) fn answer(&mut self, node: &mut Node, ticket: u64, answer: Answer) {
        if ticket != self.ticket {
            return self.unwanted(node, answer);
        }
        self.phase = match (std::mem::replace(&mut self.phase, Phase::Between), answer) {
            (Phase::Loading { interface, settings, mode }, Answer::Loaded { ring, tap: Ok(mut tap) }) => {
                let control = tap.control().clone();
                let info = TapInfo { id: node.tap_number(), control, interface, ring, settings, mode };
                match self.consume(node, &mut tap, &info) {
                    Ok(()) => {
                        node.attach(self.id, ticket, tap, info.interface.clone());
                        Phase::Attaching { info }
                    }
                    Err(error) => {
                        node.rings.release(ring);
                        self.fail("LoadFailed", error)
                    }
                }
            }
            (Phase::Loading { settings, .. }, Answer::Loaded { ring, tap: Err(failure) }) => {
                node.rings.release(ring);
                match failure {
                    LoadFailure::Filter(refusal) if self.goes_on_without(&settings.filter, &refusal) => {
                        Phase::Waiting { again: Instant::now() }
                    }
                    LoadFailure::Filter(refusal) => self.refuse(&refusal),
                    LoadFailure::Compiler(error) => {
                        self.show(
                            RunState::Pending,
                            "CompilerUnavailable",
                            &format!("{error}; it is tried again"),
                        );
                        Phase::Waiting { again: Instant::now() + node.limits.retry }
                    }
                    LoadFailure::Datapath(error) => self.fail("LoadFailed", error),
                }
            }
            (Phase::Attaching { info }, Answer::Attached { tap, result }) => match result {
                Ok(()) => {
                    self.run.started.get_or_insert_with(Timestamp::now);
                    self.tapped(tap, info)
                }
                Err(failure) => {
                    if let AttachFailure::Datapath(error) = failure {
                        self.end(Ending::new(
                            RunState::Failed,
                            "AttachFailed",
                            format!("Interface {}: {error}.", info.interface.link.name),
                        ));
                    }
                    self.retire(node, &tap, &info);
                    self.interface_lost = false;
                    Phase::Draining
                }
            },
            (Phase::Reloading { tap: old, info, settings }, Answer::Loaded { ring, tap: Ok(mut new) }) => {
                let (control, interface) = (new.control().clone(), info.interface.clone());
                new.control().set_halted(info.control.is_halted());
                let next =
                    TapInfo { id: node.tap_number(), control, interface, ring, settings, mode: info.mode };
                match self.consume(node, &mut new, &next) {
                    Ok(()) => {
                        node.take_over(self.id, ticket, old, new);
                        Phase::TakingOver { old: info, new: next }
                    }
                    Err(error) => {
                        node.rings.release(ring);
                        self.without_another(node, old, info, &next.settings, &error)
                    }
                }
            }
            (Phase::Reloading { tap, info, settings }, Answer::Loaded { ring, tap: Err(failure) }) => {
                node.rings.release(ring);
                match failure {
                    // What else was changed is tried next.
                    LoadFailure::Filter(refusal) if self.goes_on_without(&settings.filter, &refusal) => {
                        Phase::Tapped { tap, info }
                    }
                    LoadFailure::Filter(Refusal { message, .. })
                    | LoadFailure::Compiler(message)
                    | LoadFailure::Datapath(message) => {
                        self.without_another(node, tap, info, &settings, &message)
                    }
                }
            }
            (Phase::TakingOver { old, new }, Answer::TookOver { old: old_tap, new: new_tap, result }) => {
                match result {
                    Ok(()) => {
                        self.retire(node, &old_tap, &old);
                        self.tapped(new_tap, new)
                    }
                    Err(error) => {
                        self.retire(node, &new_tap, &new);
                        if old_tap.attached().is_some() {
                            self.without_another(node, old_tap, old, &new.settings, &error.to_string())
                        } else {
                            // It begins anew, as after an interface that went away.
                            self.retire(node, &old_tap, &old);
                            self.interface_lost = false;
                            Phase::Draining
                        }
                    }
                }
            }
            (Phase::Detaching { info }, Answer::Detached { tap }) => {
                self.retire(node, &tap, &info);
                self.interface_lost = false;
                Phase::Draining
            }
            (phase, answer) => {
                self.unwanted(node, answer);
                phase
            }
        };
    }

    /// An answer that nobody waits for any more: taps are dropped, which takes them off, and rings given back.
    fn unwanted(&self, node: &mut Node, answer: Answer) {
        if let Answer::Loaded { ring, .. } = answer {
            node.rings.release(ring);
        }
    }

    /// Makes new files for the tap's packets.
    pub(super) fn consume(&mut self, node: &mut Node, tap: &mut Tap, info: &TapInfo) -> Result<(), String> {
        let wanted = self.wanted.as_ref().ok_or("the request was withdrawn")?;
        let source = (tap.ring().map_err(|error| error.to_string())?, tap.counting().clone());
        node.consume(self.id, &self.run, &self.dir, wanted, &self.progress, source, info)
            .map_err(|error| error.to_string())?;
        self.open_streams += 1;
        Ok(())
    }

    pub(super) fn tapped(&mut self, tap: Tap, info: TapInfo) -> Phase {
        self.comparison = None;
        self.took(&info.settings);
        self.run.interface = Some(info.interface.link.name.clone());
        self.run.attach_mode = Some(format!("{:?}", info.mode));
        if !info.control.is_halted() {
            self.show_capturing();
        }
        self.unsaved = true;
        Phase::Tapped { tap, info }
    }

    /// A tap that is off its interface: its counts are final, and what is in its ring goes into its files.
    pub(super) fn retire(&mut self, node: &mut Node, tap: &Tap, info: &TapInfo) {
        let last = tap.counters().unwrap_or_else(|error| {
            warn!(record = self.run.record, %error, "the last counts of a tap are lost");
            self.live
        });
        node.finish(info, last);
        self.run.counted.add(&last);
        self.live = Counters::default();
        self.unsaved = true;
    }

    /// The files that an earlier agent left open have been mended, as far as they are still there.
    pub(super) fn mended(&mut self, files: Vec<(String, Result<Recovered, StorageError>)>) {
        self.mending.clear();
        let before = (self.run.files.packets(), self.run.files.bytes());
        let mut failed = None;
        for (name, recovered) in files {
            match recovered {
                Ok(Recovered::Whole(file)) => {
                    let packets = file.packets.unwrap_or(0);
                    self.progress.count_recovered(packets);
                    self.run.files.changed(File { name, bytes: file.bytes, packets, closed: true });
                }
                Ok(Recovered::Empty) => self.run.files.empty(&name),
                Ok(Recovered::Missing) => self.run.files.missing(&name),
                Err(error) => {
                    warn!(record = self.run.record, %error, "cannot mend a file of an earlier agent");
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            self.note(format!("Files of before the agent's restart may end in half a packet: {error}."));
        }
        self.unsaved = true;
        self.told.mended(before, (self.run.files.packets(), self.run.files.bytes()));
    }

    /// News of the run's files.
    pub(super) fn storage(&mut self, news: StorageEvent) {
        let files = &mut self.run.files;
        match news {
            StorageEvent::Opened { name, sequence } => {
                files.opened(name);
                self.run.next_sequence = self.run.next_sequence.max(sequence + 1);
            }
            StorageEvent::Written { name, bytes, packets } => {
                return files.changed(File { name, bytes, packets, closed: false });
            }
            StorageEvent::Closed { name, bytes, packets } => {
                files.changed(File { name, bytes, packets, closed: true });
            }
            StorageEvent::Removed { name, .. } => files.deleted(&name),
            StorageEvent::Failed { reason } => {
                self.end(storage_failed(&reason));
                self.unsaved = true;
            }
            StorageEvent::Finished { lost, .. } => {
                self.progress.write_failed(lost);
                self.open_streams = self.open_streams.saturating_sub(1);
                self.unsaved = true;
            }
        }
        self.files_moved = true;
    }
}
