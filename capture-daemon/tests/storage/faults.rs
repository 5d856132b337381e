//! File systems that are full, read-only, or have no direct way.

use std::{path::Path, process::Command};

use capture_daemon::storage::{Append, Rotation, Storage, StorageConfig, StorageEvent, StorageFailure};

use crate::support::{Scratch, Taker, UNLIMITED, closing, config, mixed_length, packet, parse};

/// A mount that goes away in the end.
struct Mount(Scratch);

impl Mount {
    fn new(kind: &str, options: &str) -> Self {
        let mount = Self(Scratch::new());
        run("mount", &["-t", kind, "-o", options, "none", mount.path().to_str().unwrap()]);
        mount
    }

    /// A new ext4 of so many MiB, in a file.
    fn ext4(mib: u32) -> Self {
        let mount = Self(Scratch::new());
        let image = mount.path().with_extension("img");
        run("truncate", &["-s", &format!("{mib}M"), image.to_str().unwrap()]);
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image.to_str().unwrap()]);
        run("mount", &["-o", "loop", image.to_str().unwrap(), mount.path().to_str().unwrap()]);
        let _ = std::fs::remove_file(image);
        mount
    }

    fn path(&self) -> &Path {
        &self.0.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["-l", self.path().to_str().unwrap()]).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Without the guard, which would stop earlier.
fn unguarded(directory: &Path) -> Storage {
    Storage::open(StorageConfig { data_dir: directory.join("data"), ..config(directory) }).unwrap()
}

/// Fills a file system with blocks until the stream fails; what is there must be whole, and counted.
fn fills_up(mount: &Mount, length: impl Fn(u64) -> usize) {
    // Something else fills the disk behind the agent's back.
    let storage = unguarded(mount.path());
    let available = storage.usage().disk_free;
    std::fs::write(mount.path().join("other"), vec![1; available as usize - (6 << 20)]).unwrap();
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    let mut number = 0;
    while taker.append(&packet(number, length(number))) == Append::Taken {
        number += 1;
        if number % 500 == 0 {
            taker.stream.tick(std::time::Instant::now() + std::time::Duration::from_secs(number), closing);
        }
        assert!(number < 1_000_000);
    }
    let closed = taker.close();
    let failures: Vec<_> =
        closed.events.iter().filter(|event| matches!(event, StorageEvent::Failed { .. })).collect();
    assert_eq!(failures, [&StorageEvent::Failed { reason: StorageFailure::DiskFull }]);
    let packets = closed.packets();
    assert!(packets.iter().copied().eq(0..packets.len() as u64), "{} packets in order", packets.len());
    let (bytes, written, lost) = closed.finished();
    assert_eq!((written, written + lost), (packets.len() as u64, number));
    assert_eq!(bytes, closed.files().iter().map(|file| file.len() as u64).sum::<u64>());
    assert!(bytes > 1 << 20, "{bytes}");

    // Room again: other streams work, in the same agent.
    std::fs::remove_file(mount.path().join("other")).unwrap();
    crate::support::eventually("room", || storage.room().is_ok());
    let mut taker = Taker::new(&storage, "web-1", UNLIMITED);
    assert_eq!(taker.append(&packet(1, 108)), Append::Taken);
    assert_eq!(taker.close().packets(), [1]);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_full_ext4_leaves_whole_files() {
    fills_up(&Mount::ext4(64), mixed_length);
    fills_up(&Mount::ext4(64), |_| 108);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_full_tmpfs_leaves_whole_files() {
    fills_up(&Mount::new("tmpfs", "size=32m"), mixed_length);
    fills_up(&Mount::new("tmpfs", "size=32m"), |_| 108);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn the_guard_stops_before_the_disk_is_as_full_as_it_may_be() {
    let mount = Mount::ext4(256);
    let storage = Storage::open(StorageConfig { max_disk_percent: 50, ..config(mount.path()) }).unwrap();
    let mut takers: Vec<Taker> =
        (0..4).map(|record| Taker::new(&storage, &format!("pod-{record}"), UNLIMITED)).collect();
    let mut number = 0;
    while !takers.iter_mut().any(|taker| taker.append(&packet(number, 1444)) != Append::Taken) {
        number += 1;
    }
    assert_eq!(storage.room(), Err(StorageFailure::DiskFull));
    for taker in takers {
        let closed = taker.close();
        assert!(parse(&closed.files()[0]).closed);
        assert_eq!(closed.finished().2, 0, "nothing that was taken is lost");
    }
    let status = rustix::fs::statvfs(mount.path()).unwrap();
    let used = status.f_blocks - status.f_bfree;
    let percent = used as f64 * 100.0 / (used + status.f_bavail) as f64;
    assert!((44.0..51.0).contains(&percent), "{percent}");
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_read_only_directory_fails_streams_with_the_reason_and_works_again_later() {
    let mount = Mount::new("tmpfs", "size=32m");
    let storage = unguarded(mount.path());
    let path = mount.path().to_str().unwrap();
    run("mount", &["-o", "remount,ro", path]);
    let run_dir = storage.run_dir("shop", "web-0");
    assert!(run_dir.is_err_and(|error| error.to_string().contains("Read-only file system")));
    run("mount", &["-o", "remount,rw", path]);
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    run("mount", &["-o", "remount,ro", path]);
    assert_eq!(taker.append(&packet(1, 108)), Append::Taken);
    let closed = taker.close();
    assert!(
        matches!(&closed.events[0], StorageEvent::Failed { reason: StorageFailure::Io(reason) } if reason.contains("Read-only")),
        "{:?}",
        closed.events
    );
    assert_eq!(closed.finished(), (0, 0, 1));
    run("mount", &["-o", "remount,rw", path]);
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    assert_eq!(taker.append(&packet(1, 108)), Append::Taken);
    assert_eq!(taker.close().packets(), [1]);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn without_a_direct_way_files_are_the_same() {
    // ramfs refuses O_DIRECT.
    let mount = Mount::new("ramfs", "mode=700");
    let storage = unguarded(mount.path());
    let rotation = Rotation { file_bytes: 4 << 20, files: None, interval: None };
    let mut taker = Taker::new(&storage, "web-0", rotation);
    for number in 0..20_000 {
        assert_eq!(taker.append(&packet(number, mixed_length(number))), Append::Taken);
    }
    let closed = taker.close();
    assert!(closed.packets().into_iter().eq(0..20_000));
    assert!(closed.files().iter().all(|file| file.len() <= 4 << 20 && parse(file).closed));
}
