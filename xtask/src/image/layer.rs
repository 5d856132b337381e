//! A file system as a tar archive (POSIX.1-1988, "ustar"), owned by root, without times.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::output;

/// Files by absolute path; written in the order of their names, so directories come before what is in them.
#[derive(Default)]
pub(crate) struct Layer {
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Directory { mode: u32 },
    File { mode: u32, content: Vec<u8> },
    Link { to: String },
}

/// The unit of a tar archive.
const BLOCK: usize = 512;

impl Layer {
    /// Adds a directory; those above it can be read by all and written by nobody.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.above(path);
        self.entries.insert(path.to_owned(), Entry::Directory { mode });
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.above(path);
        self.entries.insert(path.to_owned(), Entry::File { mode, content });
    }

    /// Adds a symbolic link, unless something is there.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.above(path);
        self.entries.entry(path.to_owned()).or_insert_with(|| Entry::Link { to: to.to_owned() });
    }

    /// Adds a file of this machine.
    pub(crate) fn copy(&mut self, path: &str, mode: u32, from: &Path) -> Result<()> {
        let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, mode, content);
        Ok(())
    }

    /// Adds a program of this machine with the shared libraries that it is linked to, each where it is here.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        self.copy(path, 0o555, from)?;
        // Fails for a program without any.
        let libraries = output(Command::new("ldd").arg(from)).unwrap_or_default();
        if let Some(line) = libraries.lines().find(|line| line.contains("not found")) {
            bail!("{}: {}", from.display(), line.trim());
        }
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(library, 0o555, Path::new(library))?;
        }
        Ok(())
    }

    /// The archive.
    pub(crate) fn tar(&self) -> Result<Vec<u8>> {
        let mut tar = Vec::new();
        for (path, entry) in &self.entries {
            let name = path.trim_start_matches('/');
            match entry {
                Entry::Directory { mode } => append(&mut tar, &format!("{name}/"), *mode, b'5', "", &[])?,
                Entry::File { mode, content } => append(&mut tar, name, *mode, b'0', "", content)?,
                Entry::Link { to } => append(&mut tar, name, 0o777, b'2', to, &[])?,
            }
        }
        end(&mut tar);
        Ok(tar)
    }

    fn above(&mut self, path: &str) {
        let mut path = path;
        while let Some((directory, _)) = path.rsplit_once('/').filter(|(directory, _)| !directory.is_empty())
        {
            self.entries.entry(directory.to_owned()).or_insert(Entry::Directory { mode: 0o555 });
            path = directory;
        }
    }
}

/// Adds a file to an archive.
pub(crate) fn append_file(tar: &mut Vec<u8>, name: &str, content: &[u8]) -> Result<()> {
    append(tar, name, 0o444, b'0', "", content)
}

/// Ends an archive.
pub(crate) fn end(tar: &mut Vec<u8>) {
    tar.resize(tar.len() + 2 * BLOCK, 0);
}

fn append(tar: &mut Vec<u8>, name: &str, mode: u32, kind: u8, to: &str, content: &[u8]) -> Result<()> {
    if name.len() > 100 || to.len() > 100 {
        bail!("{name}: names of more than 100 bytes do not fit");
    }
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000"); // user
    put(116, b"0000000"); // group
    put(124, format!("{:011o}", content.len()).as_bytes());
    put(136, b"00000000000"); // time
    put(148, b"        "); // the sum, while it is made
    put(156, &[kind]);
    put(157, to.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::Layer;

    #[test]
    fn tar_reads_what_was_written() {
        let mut layer = Layer::default();
        layer.file("/usr/bin/tool", 0o555, b"tool".to_vec());
        layer.directory("/tmp", 0o1777);
        layer.link("/bin/tool", "/usr/bin/tool");
        layer.link("/usr/bin/tool", "elsewhere");
        let tar = layer.tar().unwrap();
        assert_eq!(tar, layer.tar().unwrap());
        let mut child = Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--utc", "--file=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&tar).unwrap();
        let text = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected = [
            ["dr-xr-xr-x", "0", "bin/"],
            ["lrwxrwxrwx", "0", "bin/tool -> /usr/bin/tool"],
            ["drwxrwxrwt", "0", "tmp/"],
            ["dr-xr-xr-x", "0", "usr/"],
            ["dr-xr-xr-x", "0", "usr/bin/"],
            ["-r-xr-xr-x", "4", "usr/bin/tool"],
        ];
        assert_eq!(lines.len(), expected.len(), "{text}");
        for (line, [mode, size, name]) in lines.iter().zip(expected) {
            assert_eq!([line[0], line[1], line[2], &line[5..].join(" ")], [mode, "0/0", size, name]);
        }
    }
}
