//! Names of directories and files. Nothing that comes from outside becomes a path without passing here.

use std::fmt;

use jiff::Timestamp;

use super::StorageError;

/// The longest name of a directory, in bytes: Kubernetes' longest.
const LONGEST: usize = 253;
/// The longest part of a record's name that goes into file names, in bytes; with the rest it stays below 255.
const LONGEST_PREFIX: usize = 200;
const SUFFIX: &str = ".pcapng";

/// Whether `name` can be a directory below the data directory. Names that begin with a dot are the agent's own.
pub(super) fn check(name: &str) -> Result<(), StorageError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > LONGEST {
        "it is longer than 253 bytes"
    } else if name.starts_with('.') {
        "it begins with a dot"
    } else if name.contains(['/', '\\']) || name.chars().any(char::is_control) {
        "it contains a slash, a backslash or a control character"
    } else {
        return Ok(());
    };
    Err(StorageError::Name { name: name.chars().take(LONGEST).collect(), reason })
}

/// A capture file's name: `<record>_<YYYYMMDDTHHMMSSZ>_<4-digit sequence>.pcapng`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName {
    /// The file's number in its run; a fifth digit appears after 9,999.
    pub sequence: u32,
    /// The whole name.
    pub name: String,
}

impl FileName {
    /// The name of a file of `record` that is opened at `time`.
    #[must_use]
    pub fn new(record: &str, time: Timestamp, sequence: u32) -> Self {
        let prefix = &record[..record.floor_char_boundary(LONGEST_PREFIX)];
        Self { sequence, name: format!("{prefix}_{}_{sequence:04}{SUFFIX}", time.strftime("%Y%m%dT%H%M%SZ")) }
    }

    /// Takes a name apart; nothing when it is not a capture file's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let (rest, sequence) = name.strip_suffix(SUFFIX)?.rsplit_once('_')?;
        let (record, time) = rest.rsplit_once('_')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (day, second) = time.strip_suffix('Z')?.split_once('T')?;
        let well_formed = check(record).is_ok()
            && (day.len(), second.len()) == (8, 6)
            && digits(day)
            && digits(second)
            && sequence.len() >= 4
            && digits(sequence);
        well_formed.then_some(Self { sequence: sequence.parse().ok()?, name: name.to_owned() })
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in
            ["", ".", "..", "../x", "a/b", "/etc", ".status", "a\0b", "a\nb", "a\\b", &"x".repeat(254)]
        {
            assert!(check(name).is_err(), "{name:?}");
        }
        for name in ["web-0", "x", "ä", "a..b", &"x".repeat(253)] {
            assert!(check(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_file_name_is_read_back_and_stays_within_255_bytes() {
        let time = Timestamp::from_second(1_796_120_000).unwrap();
        let name = FileName::new("web_1-ab", time, 7);
        assert_eq!(name.name, "web_1-ab_20261201T101320Z_0007.pcapng");
        assert_eq!(FileName::parse(&name.name), Some(name));
        let long = FileName::new(&"ä".repeat(126), time, u32::MAX);
        assert!(long.name.len() <= 255);
        assert_eq!(FileName::parse(&long.name), Some(long));
    }

    #[test]
    fn other_files_are_not_taken_for_captures() {
        for name in [
            "run.json",
            "a.pcapng",
            "a_20261201T111320Z_7.pcapng",
            "a_x_0001.pcapng",
            ".a_20261201T111320Z_0001.pcapng",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
