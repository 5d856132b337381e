//! An initial file system for a kernel: a cpio archive in the "newc" format
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::output;

/// The archive, made in memory.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    paths: BTreeSet<PathBuf>,
}

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

impl Archive {
    /// Adds a directory and those above it.
    pub(crate) fn directory(&mut self, path: &str) {
        let path = Path::new(path.trim_start_matches('/'));
        let mut above: Vec<&Path> = path.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        above.reverse();
        for directory in above {
            if self.paths.insert(directory.to_owned()) {
                self.entry(&directory.display().to_string(), DIRECTORY, &[]);
            }
        }
    }

    /// Adds an executable file at that absolute path.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        let path = path.trim_start_matches('/');
        if self.paths.insert(path.into()) {
            if let Some((directory, _)) = path.rsplit_once('/') {
                self.directory(directory);
            }
            self.entry(path, EXECUTABLE, content);
        }
    }

    /// Adds a program of this machine with the libraries that it is linked to.
    pub(crate) fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.file(to, &std::fs::read(from).with_context(|| from.display().to_string())?);
        // Fails for a program without libraries.
        let libraries = output(Command::new("ldd").arg(from)).unwrap_or_default();
        for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            self.file(word, &std::fs::read(word).with_context(|| word.to_owned())?);
        }
        Ok(())
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.inode += 1;
        let numbers = [
            self.inode,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            content.len() as u32,
            0, // device
            0,
            0, // its own device
            0,
            name.len() as u32 + 1,
            0, // checksum
        ];
        self.bytes.extend(b"070701");
        for number in numbers {
            self.bytes.extend(format!("{number:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_entry_is_as_the_kernel_wants_it() {
        let mut archive = Archive::default();
        archive.file("/a/b", b"xyz");
        archive.file("/a/b", b"again");
        let text = String::from_utf8(archive.finish()).unwrap();
        let directory = "070701000000010000 41ed00000000000000000000000100000000000000000000000000000000\
                         00000000000000000000000200000000a\0";
        assert!(text.starts_with(&directory.replace(' ', "")), "{text:?}");
        assert!(text.contains("00000000a/b\0\0\0xyz\x00070701"), "{text:?}");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!") && text.len().is_multiple_of(4));
    }
}
