//! Looks for differences between filters in the kernel and libpcap's interpreter, and for texts that harm the compiler.
//!
//! `cargo run --release -p capture-filter --example fuzz -- [--comparisons N] [--seconds N] [--seed N] [--threads N]`
//! needs root. It ends with a summary, and with status 1 when anything was found.

#[path = "fuzz/compiler.rs"]
mod compiler;
#[path = "../difference/mod.rs"]
mod difference;
#[path = "fuzz/hostile.rs"]
mod hostile;
#[path = "fuzz/kernel.rs"]
mod kernel;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
Compares filters in the kernel with libpcap's interpreter, and feeds the filter compiler hostile texts.

  --comparisons N  comparisons to make, one expression, without and with its fast path, over one packet each [default: 100000000]
  --seconds N      end after this time, however many were made
  --seed N         repeat a run [default: the time]
  --threads N      threads that compare [default: one a processor]";

/// What the command line asks for.
struct Options {
    comparisons: u64,
    seconds: Option<u64>,
    seed: u64,
    threads: usize,
}

impl Options {
    fn from_arguments() -> Result<Self> {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let mut options = Options {
            comparisons: 100_000_000,
            seconds: None,
            seed: since_epoch.as_secs(),
            threads: std::thread::available_parallelism()?.get(),
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--help" {
                println!("{HELP}");
                std::process::exit(0);
            }
            let value = arguments.next().with_context(|| format!("{name} wants a number"))?;
            let value: u64 = value.replace('_', "").parse().with_context(|| format!("{name} {value}"))?;
            match name.as_str() {
                "--comparisons" => options.comparisons = value,
                "--seconds" => options.seconds = Some(value),
                "--seed" => options.seed = value,
                "--threads" => options.threads = usize::try_from(value)?.max(1),
                _ => bail!("{name}: there are --comparisons, --seconds, --seed and --threads"),
            }
        }
        Ok(options)
    }
}

/// What all threads share.
#[derive(Default)]
struct Progress {
    comparisons: AtomicU64,
    matches: AtomicU64,
    expressions: AtomicU64,
    /// Expressions that libpcap or we refuse, or whose meaning libpcap leaves open.
    refused: AtomicU64,
    through_sockets: AtomicU64,
    /// Over packets of several parts.
    parted: AtomicU64,
    texts: AtomicU64,
    programs: AtomicU64,
    exhausted: AtomicU64,
    slowest_text_us: AtomicU64,
    slowest_neighbour_us: AtomicU64,
    slowest_load_us: AtomicU64,
    stop: AtomicBool,
    findings: Mutex<Vec<String>>,
}

impl Progress {
    fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    fn get(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Something is wrong: kept, and the run ends early when there is enough of it.
    fn found(&self, finding: String) {
        eprintln!("FOUND {finding}");
        let mut findings = self.findings.lock().unwrap_or_else(PoisonError::into_inner);
        findings.push(finding);
        if findings.len() >= 10 {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

fn main() -> Result<ExitCode> {
    if std::env::args().nth(1).is_some_and(|argument| argument == "compile-filter") {
        return Ok(capture_filter::child_main());
    }
    let options = Options::from_arguments()?;
    let started = Instant::now();
    println!(
        "seed {}, {} threads, {} comparisons wanted",
        options.seed, options.threads, options.comparisons
    );
    let progress = Progress::default();
    let outcome = std::thread::scope(|scope| {
        let kernel: Vec<_> = (0..options.threads)
            .map(|thread| {
                let (progress, options) = (&progress, &options);
                scope.spawn(move || {
                    kernel::run(options.seed.wrapping_add(thread as u64), options.comparisons, progress)
                })
            })
            .collect();
        let compiler = scope.spawn(|| compiler::run(options.seed, &progress));
        let mut told = started;
        while !kernel.iter().all(|thread| thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(100));
            let late = options.seconds.is_some_and(|seconds| started.elapsed().as_secs() >= seconds);
            if late {
                progress.stop.store(true, Ordering::Relaxed);
            }
            if told.elapsed() >= Duration::from_secs(5) {
                told = Instant::now();
                println!("{:4} s: {}", started.elapsed().as_secs(), line(&progress));
            }
        }
        progress.stop.store(true, Ordering::Relaxed);
        let outcomes = kernel.into_iter().chain([compiler]).map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a thread has panicked"),
        });
        outcomes.collect::<Result<Vec<()>>>()
    });
    println!("{:4} s: {}", started.elapsed().as_secs(), line(&progress));
    outcome?;
    let ms = |counter| Progress::get(counter) as f64 / 1000.0;
    println!(
        "slowest hostile text {:.1} ms, slowest text of another tenant meanwhile {:.1} ms, slowest load of a hostile \
         program {:.1} ms",
        ms(&progress.slowest_text_us),
        ms(&progress.slowest_neighbour_us),
        ms(&progress.slowest_load_us)
    );
    let findings = progress.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "seed {}: {} differences or failures in {:.1} s",
        options.seed,
        findings.len(),
        started.elapsed().as_secs_f64()
    );
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(progress: &Progress) -> String {
    let get = Progress::get;
    format!(
        "{} comparisons ({} matches, {} over packets in parts, {} through sockets) of {} expressions ({} more refused); {} \
         hostile texts: {} programs, {} cut off, the others refused",
        get(&progress.comparisons),
        get(&progress.matches),
        get(&progress.parted),
        get(&progress.through_sockets),
        get(&progress.expressions),
        get(&progress.refused),
        get(&progress.texts),
        get(&progress.programs),
        get(&progress.exhausted)
    )
}
