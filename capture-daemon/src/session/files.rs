//! A run's files as `run.json` tells of them: the newest one by one, older and deleted ones by their sums.
//!
//! Two streams write into one run while a tap takes another's place, files of an earlier agent are mended beside them,
//! and rotation deletes the oldest, whosever it is. So there is news of files that are deleted already.

use std::collections::BTreeMap;

use capture_api::FileStatus;
use serde::{Deserialize, Serialize};

use crate::storage::{FileInfo, FileName};

/// So many closed files are listed one by one. `run.json` is written as a whole each time, and a run may have tens of
/// thousands.
const LISTED: usize = 500;
/// Bytes of a record that the list of files may take: API servers and all who watch hold records in memory.
const SHOWN: usize = 8 << 10;
/// Bytes of a shown file beside its name.
const AROUND: usize = 40;

/// One file of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct File {
    /// Its name in the run's directory.
    pub name: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Packets in it.
    pub packets: u64,
    /// Whether it is complete.
    pub closed: bool,
}

/// The files of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Files {
    /// The newest ones that are kept, oldest first, with all that are not closed.
    #[serde(default)]
    files: Vec<File>,
    /// How many older ones are kept.
    #[serde(default)]
    files_not_listed: u64,
    /// All files with numbers below this are listed, not listed for their age, or deleted.
    #[serde(default)]
    listed_from: u32,
    /// Bytes of files that are not listed, as they are too old or rotation deleted them.
    #[serde(default)]
    bytes_not_listed: u64,
    /// Packets in these.
    #[serde(default)]
    packets_not_listed: u64,
    /// Files that were deleted and are still written to. What they hold is in the sums, and what comes in goes there.
    #[serde(skip)]
    unlinked: Vec<File>,
}

impl Files {
    /// The files that are listed.
    pub(super) fn iter(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// Bytes of all files as written, the deleted ones included.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes_not_listed + self.files.iter().map(|file| file.bytes).sum::<u64>()
    }

    /// Packets in all files, the deleted ones included.
    pub(super) fn packets(&self) -> u64 {
        self.packets_not_listed + self.files.iter().map(|file| file.packets).sum::<u64>()
    }

    /// The newest files, oldest first, as a record shows them; and how many older ones there are.
    pub(super) fn statuses(&self) -> (Vec<FileStatus>, u64) {
        let mut room = SHOWN;
        let shown = self.files.iter().rev().take_while(|file| {
            let bytes = file.name.len() + AROUND;
            let fits = bytes <= room;
            room = room.saturating_sub(bytes);
            fits
        });
        let first = self.files.len() - shown.count();
        let status = |file: &File| FileStatus { name: file.name.clone(), bytes: file.bytes };
        (self.files[first..].iter().map(status).collect(), self.files_not_listed + first as u64)
    }

    /// A file was made.
    pub(super) fn opened(&mut self, name: String) {
        // Another stream may delete a file before the one that made it can tell of it.
        if !self.unlinked.iter().any(|file| file.name == name) {
            self.files.push(File { name, bytes: 0, packets: 0, closed: false });
            self.bound();
        }
    }

    /// A file that was made has grown, was closed, or was mended.
    pub(super) fn changed(&mut self, news: File) {
        if let Some(file) = self.files.iter_mut().rfind(|file| file.name == news.name) {
            *file = news;
            self.bound();
        } else if let Some(at) = self.unlinked.iter().position(|file| file.name == news.name) {
            let known = self.unlinked.swap_remove(at);
            let moved = |sum: u64, before: u64, after: u64| (sum + after).saturating_sub(before);
            self.bytes_not_listed = moved(self.bytes_not_listed, known.bytes, news.bytes);
            self.packets_not_listed = moved(self.packets_not_listed, known.packets, news.packets);
            if !news.closed {
                self.unlinked.push(news);
            }
        }
    }

    /// Rotation deleted a file.
    pub(super) fn deleted(&mut self, name: &str) {
        let listed = self.files.iter().position(|file| file.name == name);
        if listed.is_none() && number(name).is_some_and(|number| number < self.listed_from) {
            self.files_not_listed = self.files_not_listed.saturating_sub(1);
            return;
        }
        let file = match listed {
            Some(at) => self.files.remove(at),
            None => File { name: name.to_owned(), bytes: 0, packets: 0, closed: false },
        };
        self.count(&file);
        if !file.closed {
            self.unlinked.push(file);
        }
    }

    /// A file that was to be mended held no packet, and was removed.
    pub(super) fn empty(&mut self, name: &str) {
        self.files.retain(|file| file.name != name);
        self.unlinked.retain(|file| file.name != name);
    }

    /// A file that was to be mended is not there: rotation deleted it, and says so, or has said so.
    pub(super) fn missing(&mut self, name: &str) {
        self.unlinked.retain(|file| file.name != name);
        self.files.iter_mut().filter(|file| file.name == name).for_each(|file| file.closed = true);
    }

    /// All files were removed.
    pub(super) fn clear(&mut self) {
        self.files.clear();
        self.unlinked.clear();
        self.files_not_listed = 0;
    }

    /// What an earlier agent knew of its files, brought together with those that there are. Those that it did not know to
    /// be closed are open now, for how much they hold is not known before they are mended.
    pub(super) fn found(&mut self, there: Vec<FileInfo>) {
        let there: BTreeMap<String, FileInfo> =
            there.into_iter().map(|file| (file.name.clone(), file)).collect();
        let (mut known, mut gone) = (BTreeMap::new(), Vec::new());
        for file in std::mem::take(&mut self.files) {
            if there.contains_key(&file.name) {
                known.insert(file.name.clone(), file);
            } else {
                gone.push(file);
            }
        }
        // Rotation deleted them, and the agent ended before it could say so.
        gone.iter().for_each(|file| self.count(file));
        self.files_not_listed = 0;
        for (name, info) in there {
            match known.remove(&name) {
                Some(file) if file.closed => self.files.push(file),
                None if info.sequence < self.listed_from => self.files_not_listed += 1,
                _ => self.files.push(File { name, bytes: info.bytes, packets: 0, closed: false }),
            }
        }
        self.files.sort_by_cached_key(|file| number(&file.name));
    }

    /// Adds a file that is listed no more to the sums.
    fn count(&mut self, file: &File) {
        self.bytes_not_listed += file.bytes;
        self.packets_not_listed += file.packets;
    }

    /// Keeps the list short.
    fn bound(&mut self) {
        while self.files.len() > LISTED
            && let Some(at) = self.files.iter().position(|file| file.closed)
        {
            let file = self.files.remove(at);
            self.count(&file);
            self.files_not_listed += 1;
            self.listed_from = self.listed_from.max(number(&file.name).map_or(0, |number| number + 1));
        }
    }
}

/// A file's number in its run.
fn number(name: &str) -> Option<u32> {
    FileName::parse(name).map(|name| name.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u32) -> String {
        format!("web_20261201T100000Z_{number:04}.pcapng")
    }

    fn file(number: u32, bytes: u64, packets: u64, closed: bool) -> File {
        File { name: name(number), bytes, packets, closed }
    }

    fn there(numbers: impl IntoIterator<Item = u32>) -> Vec<FileInfo> {
        let info = |sequence| FileInfo { name: name(sequence), sequence, bytes: 100, packets: None, cut: 0 };
        numbers.into_iter().map(info).collect()
    }

    fn listed(files: &Files) -> Vec<u32> {
        files.iter().map(|file| number(&file.name).unwrap()).collect()
    }

    /// As kept on disk, and read by the next agent.
    fn kept(files: &Files) -> Files {
        serde_json::from_slice(&serde_json::to_vec(files).unwrap()).unwrap()
    }

    #[test]
    fn a_file_that_is_deleted_while_it_is_written_is_not_listed_and_counts_once() {
        let mut files = Files::default();
        files.opened(name(0));
        files.changed(file(0, 100, 1, false));
        files.deleted(&name(0));
        assert_eq!((files.bytes(), files.packets()), (100, 1));
        files.changed(file(0, 150, 2, false));
        files.changed(file(0, 200, 3, true));
        assert_eq!((files.iter().count(), files.bytes(), files.packets()), (0, 200, 3));
        assert!(files.unlinked.is_empty());
    }

    #[test]
    fn a_file_that_is_deleted_before_its_maker_tells_of_it_is_not_listed_and_counts_once() {
        let mut files = Files::default();
        files.deleted(&name(0));
        files.opened(name(0));
        files.changed(file(0, 200, 3, true));
        assert_eq!((files.iter().count(), files.bytes(), files.packets()), (0, 200, 3));
        assert!(files.unlinked.is_empty());
    }

    #[test]
    fn a_file_that_is_deleted_while_it_is_mended_counts_with_what_was_found_in_it() {
        let mut files = Files::default();
        files.found(there(0..4));
        files.deleted(&name(0));
        files.changed(file(0, 90, 7, true));
        files.empty(&name(1));
        // Deleted before it was opened to be mended, and said before or after that.
        files.deleted(&name(2));
        files.missing(&name(2));
        files.missing(&name(3));
        files.deleted(&name(3));
        assert_eq!((files.iter().count(), files.bytes(), files.packets()), (0, 290, 7));
        assert!(files.unlinked.is_empty());
    }

    #[test]
    fn news_of_a_file_that_is_not_known_makes_none() {
        let mut files = Files::default();
        files.changed(file(0, 200, 3, true));
        assert_eq!(files, Files::default());
    }

    #[test]
    fn what_rotation_deleted_before_the_agent_could_say_so_is_deleted() {
        let mut files = Files::default();
        for number in 0..4 {
            files.opened(name(number));
            files.changed(file(number, 100, 5, number < 3));
        }
        let mut next = kept(&files);
        next.found(there([2, 3, 4]));
        let closed: Vec<_> = next.iter().map(|file| (file.packets, file.closed)).collect();
        assert_eq!((listed(&next), closed), (vec![2, 3, 4], vec![(5, true), (0, false), (0, false)]));
        assert_eq!((next.bytes(), next.packets()), (500, 15));
        assert!(next.unlinked.is_empty());
    }

    #[test]
    fn however_many_files_there_are_the_list_is_short_and_nothing_is_forgotten() {
        const ALL: u32 = 20_000;
        let mut files = Files::default();
        // One that is written to all the time, as by a stream that is slow to end.
        files.opened(name(0));
        for number in 1..ALL {
            files.opened(name(number));
            files.changed(file(number, 10, 1, true));
        }
        assert_eq!((files.iter().count(), listed(&files)[0]), (LISTED, 0));
        let all = u64::from(ALL);
        assert_eq!((files.bytes(), files.packets()), ((all - 1) * 10, all - 1));
        assert!(serde_json::to_vec_pretty(&files).unwrap().len() < 100 << 10);
        assert_eq!(files.statuses().1 + files.statuses().0.len() as u64, all);

        // An older one goes, by rotation.
        files.deleted(&name(1));
        assert_eq!(
            (files.bytes(), files.statuses().1 + files.statuses().0.len() as u64),
            ((all - 1) * 10, all - 1)
        );
        assert!(files.unlinked.is_empty());

        // And none but the one that was open is to be mended after a restart.
        let mut next = kept(&files);
        next.found(there((0..1).chain(2..ALL)));
        let open: Vec<u32> =
            next.iter().filter(|file| !file.closed).map(|file| number(&file.name).unwrap()).collect();
        assert_eq!((open, next.packets(), next.files_not_listed), (vec![0], all - 1, files.files_not_listed));
    }

    #[test]
    fn a_record_shows_the_newest_files_and_stays_small_however_many_there_are() {
        let run = |count: usize, length: usize| {
            let mut files = Files::default();
            for number in 0..count {
                files.opened(format!("{number:0length$}"));
                files.changed(File {
                    name: format!("{number:0length$}"),
                    bytes: 1,
                    packets: 1,
                    closed: true,
                });
            }
            files
        };
        let (all, not_shown) = run(100, 40).statuses();
        assert_eq!((all.len(), not_shown), (100, 0));
        for length in [40, 240] {
            let (newest, not_shown) = run(5000, length).statuses();
            assert_eq!(newest.len() as u64 + not_shown, 5000);
            assert!(newest.len() >= 25 && serde_json::to_vec(&newest).unwrap().len() <= SHOWN);
            assert_eq!(newest.last().unwrap().name, format!("{:0length$}", 4999));
        }
    }
}
