//! A small disk for one test: ext4 in a file, mounted by way of a loop device, so that it can be filled and broken.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::output;

/// A mounted disk; unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes one of that size in the file `image` and mounts it at `at`.
    pub fn make(image: &Path, at: &Path, mebibytes: u64) -> Result<Self> {
        File::create(image)?.set_len(mebibytes << 20)?;
        // Nothing is kept back for root, so that full is full for everybody.
        output(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(image))?;
        let disk = Self { image: image.to_owned(), at: at.to_owned() };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        let options = "loop,errors=remount-ro";
        output(Command::new("mount").args(["-o", options]).arg(&self.image).arg(&self.at)).map(drop)
    }

    /// Has it mounted read-only, which takes a moment in which no file is open for writing: an error when none comes.
    pub fn read_only(&self) -> Result<()> {
        let mut last = None;
        for _ in 0..100 {
            match output(Command::new("mount").args(["-o", "remount,ro"]).arg(&self.at)) {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        last.map_or(Ok(()), Err)
    }

    /// Has it mounted for writing again.
    pub fn writable(&self) -> Result<()> {
        output(Command::new("mount").args(["-o", "remount,rw"]).arg(&self.at)).map(drop)
    }

    /// Lets the kernel find an error on it: from now on nothing can be written, to open files neither.
    pub fn fail(&self) -> Result<()> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        let at = self.at.canonicalize()?;
        let mut lines = mounts.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>());
        let own = lines.find(|fields| fields.get(1).is_some_and(|mounted| Path::new(mounted) == at));
        let device = own.context("not mounted")?[0].trim_start_matches("/dev/").to_owned();
        let trigger = Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error");
        std::fs::write(&trigger, "1").with_context(|| trigger.display().to_string())
    }

    /// Has it take no write until the result is dropped: whoever writes waits, and cannot be killed.
    pub fn freeze(&self) -> Result<Frozen> {
        output(Command::new("fsfreeze").arg("--freeze").arg(&self.at))?;
        Ok(Frozen { at: self.at.clone() })
    }

    /// Unmounts it, has it repaired and mounts it again; whoever had it open stays with what he had.
    pub fn repair(&self) -> Result<()> {
        output(Command::new("umount").arg(&self.at))?;
        let status = Command::new("fsck.ext4").args(["-p", "-f"]).arg(&self.image).output()?.status;
        // 1: errors were found and mended.
        ensure!(matches!(status.code(), Some(0 | 1)), "fsck: {status}");
        self.mount()
    }

    /// Fills it to the last block, with a file that is its only one of that name. Again, it fills what has become free.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filling())?;
        loop {
            let before = file.metadata()?.len();
            match std::io::copy(&mut std::io::repeat(1), &mut file) {
                Err(error) if error.kind() == ErrorKind::StorageFull => {}
                other => bail!("a full disk takes more: {other:?}"),
            }
            // What was reserved for writing it, and not needed, is free only then.
            file.sync_all()?;
            if file.metadata()?.len() == before {
                return Ok(());
            }
        }
    }

    /// Takes that file away again.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.filling()).context("freeing a disk")
    }

    fn filling(&self) -> PathBuf {
        self.at.join("of-somebody-else")
    }
}

/// A disk that hangs.
#[derive(Debug)]
pub struct Frozen {
    at: PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = output(Command::new("fsfreeze").arg("--unfreeze").arg(&self.at)) {
            eprintln!("a disk stays frozen: {error}");
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: it goes when the last file on it is closed.
        if let Err(error) = output(Command::new("umount").arg("--lazy").arg(&self.at)) {
            eprintln!("a disk may be left: {error}");
        }
    }
}
