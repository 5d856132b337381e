//! How fast blocks get from a stream to the disk, and what it costs.
//!
//! `cargo run --release -p capture-daemon --example storage_throughput -- [DIRECTORY] [MIB]`
//!
//! For 108-byte and 1,444-byte blocks, one stream and eight, prints the rate, the CPU time of the appending thread and
//! of the whole process per byte, and what a plain copy of the same blocks costs.

use std::{
    env, fs,
    hint::black_box,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use capture_daemon::{
    pcapng::{FileHeader, Statistics},
    storage::{Append, FileStream, Rotation, Storage, StorageConfig, StreamSpec},
};
use rustix::time::{ClockId, clock_gettime};

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let directory = PathBuf::from(arguments.next().unwrap_or_else(|| "target/storage-throughput".into()));
    let mib: u64 = arguments.next().map_or(Ok(2048), |text| text.parse())?;
    println!("block  streams   GB/s   append ns/block (copy alone)   CPU ns/KB: appending, all   waits");
    for round in 0..2 {
        for (length, streams) in [(108, 1), (1444, 1), (65_592, 1), (108, 8), (1444, 8)] {
            let row = measure(&directory, length, streams, mib << 20)?;
            if round > 0 {
                println!("{row}");
            }
        }
    }
    fs::remove_dir_all(directory)?;
    Ok(())
}

fn measure(directory: &Path, length: usize, streams: usize, total: u64) -> anyhow::Result<String> {
    let storage = Storage::open(StorageConfig {
        data_dir: directory.to_owned(),
        buffer_bytes: 96 << 20,
        writers: 2,
        write_bytes_per_second: None,
        quota_bytes: None,
        namespace_quota_bytes: None,
        max_disk_percent: 95,
    })?;
    let runs = (0..streams)
        .map(|stream| storage.run_dir("bench", &format!("run-{stream}")))
        .collect::<Result<Vec<_>, _>>()?;
    let spec = || StreamSpec {
        record: "bench".into(),
        first_sequence: 0,
        header: FileHeader::default().to_bytes(),
        rotation: Rotation { file_bytes: 256 << 20, files: Some(2), interval: None },
        closing_bytes: Statistics::MAX_LENGTH,
    };
    let mut open: Vec<FileStream> =
        runs.iter().map(|run| storage.stream(run, spec(), |_| ())).collect::<Result<_, _>>()?;
    let mut block = vec![7; length];
    block[..4].copy_from_slice(&6_u32.to_le_bytes());
    block[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    let blocks = total / length as u64;

    let copy = copying(&block, blocks.min(20_000_000));
    let closing = |_: &_| Statistics::default().to_bytes(1);
    let (process, thread, start) =
        (cpu(ClockId::ProcessCPUTime), cpu(ClockId::ThreadCPUTime), Instant::now());
    let mut waits = 0_u64;
    for number in 0..blocks {
        let stream = &mut open[number as usize / 64 % streams];
        while stream.append(black_box(&block), closing) == Append::NoBuffer {
            waits += 1;
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    let appending = cpu(ClockId::ThreadCPUTime) - thread;
    open.drain(..).for_each(|stream| stream.close(Statistics::default().to_bytes(1)));
    drop((storage, runs.iter().map(|run| run.path()).collect::<Vec<_>>()));
    let elapsed = start.elapsed();
    let all = cpu(ClockId::ProcessCPUTime) - process;
    for run in runs {
        run.remove()?;
    }
    let bytes = (blocks * length as u64) as f64;
    Ok(format!(
        "{length:>5}  {streams:>7}  {:>5.2}   {:>15.1} ({:>10.1})   {:>17.1}, {:>5.1}   {waits:>6}",
        bytes / 1e9 / elapsed.as_secs_f64(),
        appending.as_nanos() as f64 / blocks as f64,
        copy.as_nanos() as f64,
        appending.as_nanos() as f64 / bytes * 1024.0,
        all.as_nanos() as f64 / bytes * 1024.0,
    ))
}

/// What copying a block into such buffers costs, in the same memory pattern.
fn copying(block: &[u8], blocks: u64) -> Duration {
    let mut buffers = vec![vec![1_u8; 256 << 10]; 24];
    let (mut at, mut buffer) = (0, 0);
    let start = cpu(ClockId::ThreadCPUTime);
    for _ in 0..blocks {
        if at + block.len() > buffers[buffer].len() {
            (at, buffer) = (0, (buffer + 1) % buffers.len());
        }
        buffers[buffer][at..at + block.len()].copy_from_slice(black_box(block));
        at += block.len();
    }
    black_box(&buffers);
    (cpu(ClockId::ThreadCPUTime) - start) / u32::try_from(blocks).unwrap_or(u32::MAX)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
