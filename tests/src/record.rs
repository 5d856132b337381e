//! PodCapture records as the agent writes them below `<data-dir>/.status`, read as JSON like any other user would.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::blocks::{self, Blocks};
use crate::traffic;

/// One record.
#[derive(Clone, Debug)]
pub struct Record {
    json: Value,
    data_dir: PathBuf,
}

/// One direction's counters of a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Packets that came by.
    pub seen: u64,
    /// Packets that the filter accepted.
    pub matched: u64,
    /// Packets handed to the agent.
    pub captured: u64,
    /// Bytes of those on the wire.
    pub bytes: u64,
}

impl Record {
    /// All records of a data directory, ordered by namespace and name.
    pub fn all(data_dir: &Path) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for namespace in entries(&data_dir.join(".status")) {
            for file in entries(&namespace) {
                if file.extension().is_some_and(|extension| extension == "json") {
                    // Gone between listing and reading: retention. Half of one is an error: they are written atomically.
                    let Ok(bytes) = std::fs::read(&file) else { continue };
                    let json = serde_json::from_slice(&bytes)
                        .with_context(|| format!("{} is not whole", file.display()))?;
                    found.push(Self { json, data_dir: data_dir.to_owned() });
                }
            }
        }
        found.sort_by_key(|record: &Self| (record.namespace().to_owned(), record.name().to_owned()));
        Ok(found)
    }

    /// The record as it is written.
    pub fn json(&self) -> &Value {
        &self.json
    }

    fn text(&self, pointer: &str) -> &str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn number(&self, pointer: &str) -> u64 {
        self.json.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
    }

    /// Its own name.
    pub fn name(&self) -> &str {
        self.text("/metadata/name")
    }

    /// Namespace of the pod.
    pub fn namespace(&self) -> &str {
        self.text("/metadata/namespace")
    }

    /// Name of the pod.
    pub fn pod(&self) -> &str {
        self.text("/spec/pod")
    }

    /// Name of the PacketCapture; empty when a label asked.
    pub fn capture(&self) -> &str {
        self.text("/spec/capture")
    }

    /// State of the run, such as `Capturing`.
    pub fn state(&self) -> &str {
        self.text("/status/state")
    }

    /// Reason of the state.
    pub fn reason(&self) -> &str {
        self.text("/status/reason")
    }

    /// What a user is told.
    pub fn message(&self) -> &str {
        self.text("/status/message")
    }

    /// Packets in its files.
    pub fn packets(&self) -> u64 {
        self.number("/status/packets")
    }

    /// Bytes as written.
    pub fn bytes(&self) -> u64 {
        self.number("/status/bytes")
    }

    /// Packets lost after they matched, whatever the cause.
    pub fn dropped(&self) -> u64 {
        self.number("/status/dropped")
    }

    /// Packets lost for one cause: `ring`, `rate` or `storage`.
    pub fn drops(&self, cause: &str) -> u64 {
        self.number(&format!("/status/drops/{cause}"))
    }

    /// Packets that came after a limit was reached: no loss.
    pub fn beyond_limit(&self) -> u64 {
        self.number("/status/beyondLimit")
    }

    /// How many bytes it has written, for people.
    pub fn size(&self) -> &str {
        self.text("/status/size")
    }

    /// `Tcx` or `Socket`.
    pub fn attach_mode(&self) -> &str {
        self.text("/status/attachMode")
    }

    /// What the pod sent.
    pub fn from_pod(&self) -> Direction {
        self.direction("fromPod")
    }

    /// What the pod received.
    pub fn to_pod(&self) -> Direction {
        self.direction("toPod")
    }

    fn direction(&self, name: &str) -> Direction {
        let number = |field: &str| self.number(&format!("/status/{name}/{field}"));
        Direction {
            seen: number("seen"),
            matched: number("matched"),
            captured: number("captured"),
            bytes: number("bytes"),
        }
    }

    /// Its files, oldest first.
    pub fn files(&self) -> Vec<PathBuf> {
        let directory = self.directory();
        let files = self.json.pointer("/status/files").and_then(Value::as_array);
        let names = files.into_iter().flatten().filter_map(|file| file.get("name")?.as_str());
        names.map(|name| directory.join(name)).collect()
    }

    /// Directory of the run.
    pub fn directory(&self) -> PathBuf {
        self.data_dir.join(self.namespace()).join(self.name())
    }

    /// Reads all its files, strictly.
    pub fn read(&self) -> Result<Vec<Blocks>> {
        self.files().iter().map(|file| blocks::read(file)).collect()
    }

    /// The numbers of the packets to that port in all its files, in their order.
    pub fn numbers(&self, port: u16) -> Result<Vec<u64>> {
        Ok(self.read()?.iter().flat_map(|file| traffic::numbers(&file.packets, port)).collect())
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        matches!(self.state(), "Completed" | "Stopped" | "Refused" | "Failed")
    }
}

/// Files of a directory, none when it does not exist.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}
