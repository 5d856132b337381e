//! The files of a directory: which are there, which have changed, and which are ready to be read.
//!
//! A file is read when its writer closed it or renamed it into place, or when it has not changed for [`SETTLE`]; and
//! it is gone when it has been missing for [`GONE`], since some editors move a file away before they write it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, open, openat2, statat};

use super::document::Format;

/// How long a file must stay unchanged before it is read although nobody closed it.
pub const SETTLE: Duration = Duration::from_secs(1);
/// How long a file must be missing before its objects are gone.
pub const GONE: Duration = Duration::from_millis(500);
/// The most bytes of a manifest.
pub const MAX_BYTES: u64 = 1 << 20;

/// A watched directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    max_files: usize,
    entries: BTreeMap<OsString, Entry>,
    /// More files than the bound, as was told last.
    over: usize,
}

/// What a scan found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// A file's text, new or changed.
    Text(OsString, Format, String),
    /// A file that cannot be read as it is now, and why.
    Unreadable(OsString, String),
    /// A file that is gone.
    Gone(OsString),
    /// So many files are beyond the bound and are not looked at.
    TooMany(usize),
}

#[derive(Debug)]
struct Entry {
    fingerprint: Fingerprint,
    /// When the fingerprint was first seen.
    since: Instant,
    /// It has been read as it is.
    read: bool,
    /// Hash of what was found last, so that nothing is found twice.
    found: Option<u64>,
    missing: Option<Instant>,
}

/// What differs when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    bytes: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

#[expect(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
impl From<&Stat> for Fingerprint {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            bytes: stat.st_size as i64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as u64),
        }
    }
}

impl Directory {
    /// The directory at `path`, of which at most `max_files` manifests are looked at.
    #[must_use]
    pub fn new(path: &Path, max_files: usize) -> Self {
        Self { path: path.to_owned(), max_files, entries: BTreeMap::new(), over: 0 }
    }

    /// Looks at all files. Those in `closed` have just been closed by their writer or renamed into place; with
    /// `first`, all are read as they are.
    ///
    /// # Errors
    /// The directory cannot be read. Nothing is found gone then.
    pub fn scan(&mut self, closed: &BTreeSet<OsString>, first: bool, now: Instant) -> io::Result<Vec<Found>> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(&self.path, flags, Mode::empty())?;
        let mut found = Vec::new();
        let present = self.names(&directory, &mut found)?;
        for name in &present {
            self.look(&directory, name, closed.contains(name), first, now, &mut found);
        }
        self.entries.retain(|name, entry| {
            if present.contains(name) {
                return true;
            }
            let gone = now - *entry.missing.get_or_insert(now) >= GONE;
            if gone {
                found.push(Found::Gone(name.clone()));
            }
            !gone
        });
        Ok(found)
    }

    /// Whether a file waits to be read or to be found gone, so that the next scan should come soon.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.entries.values().any(|entry| !entry.read || entry.missing.is_some())
    }

    /// The manifests that are there, by name, and no more than the bound: those known before come first.
    fn names(&mut self, directory: &OwnedFd, found: &mut Vec<Found>) -> io::Result<BTreeSet<OsString>> {
        let mut present = BTreeSet::new();
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if format_of(name).is_some() && entry.file_type() != FileType::Directory {
                present.insert(name.to_owned());
            }
        }
        let over = present.len().saturating_sub(self.max_files);
        if over > 0 {
            let (known, new): (Vec<_>, Vec<_>) =
                present.into_iter().partition(|name| self.entries.contains_key(name));
            present = known.into_iter().chain(new).take(self.max_files).collect();
        }
        if over != self.over {
            self.over = over;
            if over > 0 {
                found.push(Found::TooMany(over));
            }
        }
        Ok(present)
    }

    fn look(
        &mut self,
        directory: &OwnedFd,
        name: &OsStr,
        closed: bool,
        first: bool,
        now: Instant,
        found: &mut Vec<Found>,
    ) {
        // It may be gone by now: then the next scan misses it.
        let Ok(stat) = statat(directory, name, AtFlags::empty()).or_else(|_| {
            // A link that leads nowhere is told as one.
            statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
        }) else {
            return;
        };
        let fingerprint = Fingerprint::from(&stat);
        let entry = self.entries.entry(name.to_owned()).or_insert(Entry {
            fingerprint,
            since: now,
            read: false,
            found: None,
            missing: None,
        });
        entry.missing = None;
        entry.notice(fingerprint, now);
        // Times of files are coarse: one that was closed may differ although its fingerprint does not.
        if !closed && (entry.read || !(first || now - entry.since >= SETTLE)) {
            return;
        }
        let result = read(directory, name);
        if let Ok((_, read)) = &result
            && *read != fingerprint
        {
            // Written to meanwhile: wait until it is closed or settles.
            entry.notice(*read, now);
            return;
        }
        entry.read = true;
        let result = result.map(|(text, _)| text);
        let hash = {
            let mut hasher = DefaultHasher::new();
            result.hash(&mut hasher);
            hasher.finish()
        };
        if entry.found.replace(hash) == Some(hash) {
            return;
        }
        match (result, format_of(name)) {
            (Ok(text), Some(format)) => found.push(Found::Text(name.to_owned(), format, text)),
            (Ok(_), None) => {}
            (Err(why), _) => found.push(Found::Unreadable(name.to_owned(), why)),
        }
    }
}

impl Entry {
    /// What the file looks like now.
    fn notice(&mut self, fingerprint: Fingerprint, now: Instant) {
        if self.fingerprint != fingerprint {
            self.fingerprint = fingerprint;
            self.since = now;
            self.read = false;
        }
    }
}

/// How a file of this name is read; none for those that are no manifests: hidden ones and other endings.
fn format_of(name: &OsStr) -> Option<Format> {
    if name.as_bytes().starts_with(b".") {
        return None;
    }
    match Path::new(name).extension()?.to_str()? {
        "yaml" | "yml" => Some(Format::Yaml),
        "json" => Some(Format::Json),
        _ => None,
    }
}

/// The text of a regular file of the directory, and what it was when it had been read.
fn read(directory: &OwnedFd, name: &OsStr) -> Result<(String, Fingerprint), String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    // Links within the directory are followed (ConfigMap volumes are made of them), none out of it.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(directory, name, flags, Mode::empty(), resolve).map_err(|error| match error {
        rustix::io::Errno::XDEV => "it is a link that leads out of the directory".to_owned(),
        error => error.to_string(),
    })?;
    let stat = fstat(&file).map_err(|error| error.to_string())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("it is no regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let mut file = File::from(file);
    (&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {} MiB", MAX_BYTES >> 20));
    }
    let stat = fstat(&file).map_err(|error| error.to_string())?;
    let text = String::from_utf8(bytes).map_err(|_| "it is no UTF-8 text".to_owned())?;
    Ok((text, Fingerprint::from(&stat)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::requests::test_dir::TestDir;

    struct Scanner {
        directory: Directory,
        now: Instant,
    }

    impl Scanner {
        fn new(path: &Path) -> Self {
            Self { directory: Directory::new(path, 4), now: Instant::now() }
        }

        fn scan(&mut self, closed: &[&str], later: Duration) -> Vec<Found> {
            self.now += later;
            let closed = closed.iter().map(OsString::from).collect();
            self.directory.scan(&closed, false, self.now).unwrap()
        }
    }

    fn text(name: &str, text: &str) -> Found {
        Found::Text(name.into(), Format::Yaml, text.into())
    }

    const SOON: Duration = Duration::from_millis(100);

    #[test]
    fn a_file_is_read_when_closed_or_settled_and_once() {
        let dir = TestDir::new();
        let mut scanner = Scanner::new(dir.path());
        fs::write(dir.path().join("a.yaml"), "one").unwrap();
        assert_eq!(scanner.scan(&[], SOON), []);
        assert!(scanner.directory.waits());
        assert_eq!(scanner.scan(&["a.yaml"], SOON), [text("a.yaml", "one")]);
        assert!(!scanner.directory.waits());
        assert_eq!(scanner.scan(&["a.yaml"], SETTLE), []);
        fs::write(dir.path().join("a.yaml"), "three").unwrap();
        assert_eq!(scanner.scan(&[], SOON), []);
        assert_eq!(scanner.scan(&[], SETTLE), [text("a.yaml", "three")]);
    }

    #[test]
    fn a_file_that_an_editor_replaces_is_never_gone() {
        let dir = TestDir::new();
        let mut scanner = Scanner::new(dir.path());
        let path = dir.path().join("a.yaml");
        fs::write(&path, "one").unwrap();
        scanner.scan(&["a.yaml"], SOON);
        fs::rename(&path, dir.path().join("a.yaml~")).unwrap();
        assert_eq!(scanner.scan(&[], SOON), []);
        fs::write(&path, "two").unwrap();
        assert_eq!(scanner.scan(&["a.yaml"], SOON), [text("a.yaml", "two")]);
        fs::remove_file(&path).unwrap();
        assert_eq!(scanner.scan(&[], SOON), []);
        assert_eq!(scanner.scan(&[], GONE), [Found::Gone("a.yaml".into())]);
    }

    #[test]
    fn what_is_no_manifest_is_not_read() {
        let dir = TestDir::new();
        let mut scanner = Scanner::new(dir.path());
        for name in [".a.yaml", "a.yaml.swp", "a.txt", "a"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        fs::create_dir(dir.path().join("d.yaml")).unwrap();
        assert_eq!(scanner.scan(&[], SOON), []);
        assert_eq!(scanner.scan(&[], SETTLE), []);
    }

    #[test]
    fn what_cannot_be_a_manifest_is_told_once() {
        let (dir, outside) = (TestDir::new(), TestDir::new());
        let mut scanner = Scanner::new(dir.path());
        fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path().join("secret"), dir.path().join("a.yaml")).unwrap();
        fs::write(dir.path().join("b.yaml"), vec![b' '; MAX_BYTES as usize + 1]).unwrap();
        fs::write(dir.path().join("c.yaml"), [0xff]).unwrap();
        rustix::fs::mknodat(
            open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap(),
            "d.yaml",
            FileType::Fifo,
            Mode::RWXU,
            0,
        )
        .unwrap();
        let unreadable = |name: &str, why: &str| Found::Unreadable(name.into(), why.into());
        let all = scanner.directory.scan(&BTreeSet::new(), true, scanner.now).unwrap();
        assert_eq!(
            all,
            [
                unreadable("a.yaml", "it is a link that leads out of the directory"),
                unreadable("b.yaml", "it is larger than 1 MiB"),
                unreadable("c.yaml", "it is no UTF-8 text"),
                unreadable("d.yaml", "it is no regular file"),
            ]
        );
        assert_eq!(scanner.scan(&[], SETTLE), []);
    }

    #[test]
    fn links_within_the_directory_are_followed_as_they_change() {
        let dir = TestDir::new();
        let mut scanner = Scanner::new(dir.path());
        for version in ["v1", "v2"] {
            fs::create_dir(dir.path().join(version)).unwrap();
            fs::write(dir.path().join(version).join("a.yaml"), version).unwrap();
        }
        symlink("v1", dir.path().join("..data")).unwrap();
        symlink("..data/a.yaml", dir.path().join("a.yaml")).unwrap();
        assert_eq!(
            scanner.directory.scan(&BTreeSet::new(), true, scanner.now).unwrap(),
            [text("a.yaml", "v1")]
        );
        symlink("v2", dir.path().join("..new")).unwrap();
        fs::rename(dir.path().join("..new"), dir.path().join("..data")).unwrap();
        assert_eq!(scanner.scan(&[], SOON), []);
        assert_eq!(scanner.scan(&[], SETTLE), [text("a.yaml", "v2")]);
    }

    #[test]
    fn files_beyond_the_bound_are_told_and_those_known_stay() {
        let dir = TestDir::new();
        let mut scanner = Scanner::new(dir.path());
        for name in ["c", "d", "e", "f"] {
            fs::write(dir.path().join(format!("{name}.yaml")), name).unwrap();
        }
        assert_eq!(scanner.directory.scan(&BTreeSet::new(), true, scanner.now).unwrap().len(), 4);
        fs::write(dir.path().join("a.yaml"), "a").unwrap();
        assert_eq!(scanner.scan(&["a.yaml"], SOON), [Found::TooMany(1)]);
        assert_eq!(scanner.scan(&["a.yaml"], SETTLE), []);
        fs::remove_file(dir.path().join("f.yaml")).unwrap();
        assert_eq!(scanner.scan(&[], SOON), []);
        assert_eq!(scanner.scan(&[], SETTLE), [text("a.yaml", "a"), Found::Gone("f.yaml".into())]);
    }

    #[test]
    fn a_directory_that_is_away_loses_nothing() {
        let dir = TestDir::new();
        let mut scanner = Scanner::new(dir.path());
        fs::write(dir.path().join("a.yaml"), "a").unwrap();
        scanner.scan(&["a.yaml"], SOON);
        let away = dir.path().with_extension("away");
        fs::rename(dir.path(), &away).unwrap();
        scanner.now += GONE;
        assert!(scanner.directory.scan(&BTreeSet::new(), false, scanner.now).is_err());
        fs::rename(&away, dir.path()).unwrap();
        assert_eq!(scanner.scan(&[], GONE), []);
    }
}
