//! Files that go while others are written, and while somebody reads them.

use std::{fs::File, io::Read as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use capture_daemon::storage::{Append, Storage};

use crate::support::{Scratch, Taker, UNLIMITED, captures, config, eventually, packet, parse};

/// Makes a run with one file of some 26 MB.
fn large_file(storage: &Storage) -> std::path::PathBuf {
    let mut taker = Taker::new(storage, "web-0", UNLIMITED);
    for number in 0..400 {
        assert_eq!(taker.append(&packet(number, 65_592)), Append::Taken);
    }
    let closed = taker.close();
    captures(&closed.directory).remove(0)
}

/// Looks at a file without being one of those who have it open.
fn look(path: &Path) -> File {
    File::options().read(true).custom_flags(libc::O_PATH).open(path).unwrap()
}

fn remove(storage: &Storage) {
    storage.runs().unwrap().into_iter().chain(storage.strays().unwrap()).for_each(|run| {
        run.remove_files().unwrap();
    });
}

#[test]
fn a_large_file_that_goes_is_freed_bit_by_bit() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let path = large_file(&storage);
    let look = look(&path);
    let mut lengths = vec![look.metadata().unwrap().len()];
    remove(&storage);
    assert!(!path.exists());
    assert_eq!(storage.usage().used, 0);
    eventually("all but the last bit is freed", || {
        lengths.push(look.metadata().unwrap().len());
        lengths.last().is_some_and(|length| *length <= 8 << 20)
    });
    assert!(lengths[0] > 26_000_000 && lengths.is_sorted_by(|a, b| a >= b), "{lengths:?}");
}

#[test]
fn who_reads_a_file_that_goes_gets_all_of_it() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0)).unwrap();
    let path = large_file(&storage);
    let look = look(&path);
    let mut reader = File::open(&path).unwrap();
    let mut bytes = vec![0; 1 << 20];
    reader.read_exact(&mut bytes).unwrap();
    remove(&storage);
    assert!(!path.exists());
    // Another one, that nobody reads, is freed by the same thread, and after it.
    let other = large_file(&storage);
    let after = self::look(&other);
    remove(&storage);
    eventually("the other one is freed", || after.metadata().unwrap().len() <= 8 << 20);
    assert!(look.metadata().unwrap().len() > 26_000_000);
    reader.read_to_end(&mut bytes).unwrap();
    assert!(parse(&bytes).packets.iter().copied().eq(0..400));
}
