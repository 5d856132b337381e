//! Records as files: `<data-dir>/.status/<namespace>/<record>.json`, for hosts without Kubernetes. A projection of
//! `run.json`, which nothing trusts.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use capture_api::{PodCapture, names};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, mkdirat, open, openat, renameat, unlinkat};
use rustix::io::Errno;
use tracing::warn;

use crate::session::Records;

/// The directory below the data directory.
pub const NAME: &str = ".status";

/// The directory of records.
#[derive(Debug)]
pub struct StatusDir {
    path: PathBuf,
    directory: OwnedFd,
}

impl Records for StatusDir {
    fn publish(&self, record: &PodCapture) -> bool {
        if !record.spec.namespace_uid.is_empty() {
            // Made on Kubernetes, in a namespace that is not the one of this name here.
            let metadata = &record.metadata;
            self.remove(metadata.namespace.as_deref().unwrap_or(""), metadata.name.as_deref().unwrap_or(""));
            return true;
        }
        let written = self.write(record);
        if let Err(error) = &written {
            warn!(%error, "cannot write a record");
        }
        written.is_ok()
    }

    fn remove(&self, namespace: &str, record: &str) {
        if let Err(error) = self.unlink(namespace, record) {
            warn!(%error, "cannot remove a record");
        }
    }

    fn sweep(&self, known: &dyn Fn(&str, &str) -> bool) {
        match self.records() {
            Ok(records) => {
                let unknown = records.iter().filter(|(namespace, record)| !known(namespace, record));
                unknown.for_each(|(namespace, record)| self.remove(namespace, record));
            }
            Err(error) => warn!(%error, "cannot look for records of runs that are gone"),
        }
    }
}

/// Why a record could not be written or removed.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The names cannot be parts of a path.
    #[error("{namespace:?}/{record:?} is not a namespace and a name")]
    Name {
        /// As given.
        namespace: String,
        /// As given.
        record: String,
    },
    /// A system call failed.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The record could not be written as JSON.
    #[error("record {0} as JSON: {1}")]
    Json(String, serde_json::Error),
}

impl StatusDir {
    /// Opens, and if need be makes (mode 0700), `.status` below `data_dir`, which must be there.
    ///
    /// # Errors
    /// It cannot be made or opened, or is a link.
    pub fn open(data_dir: &Path) -> Result<Self, StatusError> {
        let path = data_dir.join(NAME);
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let data = open(data_dir, flags, Mode::empty()).map_err(failed("open", data_dir))?;
        let directory = make_directory(data.as_fd(), NAME, &path)?;
        Ok(Self { path, directory })
    }

    /// Writes the record, atomically: a reader sees the old one or the new one. Not synced: it can be made again.
    ///
    /// # Errors
    /// Its names are no names, or a system call failed.
    pub fn write(&self, record: &PodCapture) -> Result<(), StatusError> {
        let namespace = record.metadata.namespace.as_deref().unwrap_or_default();
        let name = record.metadata.name.as_deref().unwrap_or_default();
        check(namespace, name)?;
        let mut json =
            serde_json::to_vec_pretty(record).map_err(|error| StatusError::Json(name.to_owned(), error))?;
        json.push(b'\n');

        let path = self.path.join(namespace);
        let directory = make_directory(self.directory.as_fd(), namespace, &path)?;
        let (file, temporary) = (format!("{name}.json"), format!(".{name}.tmp"));
        // One left by a killed agent, perhaps.
        let _ = unlinkat(&directory, &temporary, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = path.join(&file);
        let descriptor = openat(&directory, &temporary, flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed("create a temporary file for", &path))?;
        let written = File::from(descriptor)
            .write_all(&json)
            .map_err(|source| StatusError::Io { operation: "write", path: path.clone(), source })
            .and_then(|()| {
                renameat(&directory, &temporary, &directory, &file).map_err(failed("rename to", &path))
            });
        if written.is_err() {
            let _ = unlinkat(&directory, &temporary, AtFlags::empty());
        }
        written
    }

    /// Removes a record, and its namespace's directory when it was the last. One that is not there is no error.
    ///
    /// # Errors
    /// The names are no names, or a system call failed.
    pub fn unlink(&self, namespace: &str, record: &str) -> Result<(), StatusError> {
        check(namespace, record)?;
        let path = self.path.join(namespace);
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match openat(&self.directory, namespace, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(failed("open", &path))?,
        };
        let file = format!("{record}.json");
        match unlinkat(&directory, &file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("remove", &path.join(file))(error)),
        }
        match unlinkat(&self.directory, namespace, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove", &path)(error)),
        }
    }

    /// All records that are there, as namespace and name; what an agent finds at its start.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn records(&self) -> Result<Vec<(String, String)>, StatusError> {
        let mut records = Vec::new();
        for namespace in names_in(self.directory.as_fd(), &self.path, FileType::Directory)? {
            if !names::is_dns_label(&namespace) {
                continue;
            }
            let path = self.path.join(&namespace);
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory =
                openat(&self.directory, &namespace, flags, Mode::empty()).map_err(failed("open", &path))?;
            for file in names_in(directory.as_fd(), &path, FileType::RegularFile)? {
                if let Some(record) = file.strip_suffix(".json").filter(|name| names::is_subdomain(name)) {
                    records.push((namespace.clone(), record.to_owned()));
                }
            }
        }
        records.sort();
        Ok(records)
    }
}

fn names_in(directory: impl AsFd, path: &Path, kind: FileType) -> Result<Vec<String>, StatusError> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).map_err(failed("read", path))? {
        let entry = entry.map_err(failed("read", path))?;
        if (entry.file_type() == kind || entry.file_type() == FileType::Unknown)
            && let Ok(name) = entry.file_name().to_str()
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn make_directory(parent: impl AsFd, name: &str, path: &Path) -> Result<OwnedFd, StatusError> {
    match mkdirat(&parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(failed("make", path)(error)),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&parent, name, flags, Mode::empty()).map_err(failed("open", path))
}

fn check(namespace: &str, record: &str) -> Result<(), StatusError> {
    if names::is_dns_label(namespace) && names::is_subdomain(record) && record.len() <= names::MAX_RECORD_NAME
    {
        return Ok(());
    }
    Err(StatusError::Name { namespace: namespace.to_owned(), record: record.to_owned() })
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(Errno) -> StatusError {
    let path = path.to_owned();
    move |error| StatusError::Io { operation, path, source: error.into() }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use capture_api::{PodCaptureSpec, RequestKind};

    use super::*;
    use crate::requests::test_dir::TestDir;

    fn record(namespace: &str, name: &str) -> PodCapture {
        let spec = PodCaptureSpec {
            pod: "web".into(),
            pod_uid: "u".into(),
            namespace_uid: String::new(),
            request: RequestKind::Label,
            capture: None,
            request_uid: "u".into(),
            node: "node1".into(),
            settings: None,
        };
        let mut record = PodCapture::new(name, spec);
        record.metadata.namespace = Some(namespace.into());
        record
    }

    #[test]
    fn a_record_is_written_whole_and_private_and_is_replaced() {
        let data = TestDir::new();
        let status = StatusDir::open(data.path()).unwrap();
        status.write(&record("team-a", "web-12345")).unwrap();
        let mut changed = record("team-a", "web-12345");
        changed.spec.node = "node2".into();
        status.write(&changed).unwrap();

        let directory = data.path().join(".status/team-a");
        let files: Vec<_> =
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, ["web-12345.json"]);
        let read: PodCapture =
            serde_json::from_slice(&fs::read(directory.join("web-12345.json")).unwrap()).unwrap();
        assert_eq!(read.spec.node, "node2");
        assert_eq!(fs::metadata(directory.join("web-12345.json")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(data.path().join(".status")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn records_are_listed_and_removed_with_their_directory() {
        let data = TestDir::new();
        let status = StatusDir::open(data.path()).unwrap();
        for (namespace, name) in [("b", "y"), ("a", "x"), ("b", "x")] {
            status.write(&record(namespace, name)).unwrap();
        }
        let all: Vec<(String, String)> =
            [("a", "x"), ("b", "x"), ("b", "y")].map(|(a, b)| (a.into(), b.into())).into();
        assert_eq!(status.records().unwrap(), all);
        status.unlink("a", "x").unwrap();
        status.unlink("a", "x").unwrap();
        status.unlink("b", "x").unwrap();
        assert_eq!(status.records().unwrap(), [("b".to_owned(), "y".to_owned())]);
        assert!(!data.path().join(".status/a").exists());
    }

    #[test]
    fn nothing_is_written_outside() {
        let data = TestDir::new();
        let status = StatusDir::open(data.path()).unwrap();
        for (namespace, name) in [("..", "x"), ("a", "../x"), ("a/b", "x"), ("", "x"), ("a", ""), ("a", ".x")]
        {
            assert!(matches!(status.write(&record(namespace, name)), Err(StatusError::Name { .. })));
            assert!(matches!(status.unlink(namespace, name), Err(StatusError::Name { .. })));
        }
        let outside = TestDir::new();
        symlink(outside.path(), data.path().join(".status/team-a")).unwrap();
        assert!(matches!(status.write(&record("team-a", "x")), Err(StatusError::Io { .. })));
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
