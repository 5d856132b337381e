//! Hostile texts to the compiler, and a neighbour that must not notice.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use capture_filter::kernel::LoadedFilter;
use capture_filter::{Compiler, Filter, FilterError};

use crate::Progress;
use crate::difference::random::Random;
use crate::hostile;

/// Texts at least, however soon the comparisons are done.
const TEXTS: u64 = 500;
/// Longest answer to a hostile text: what the compiler promises, and scheduling on a busy machine.
const SLOWEST: Duration = Duration::from_secs(3);
/// Longest time that the kernel may look at a filter.
const SLOWEST_LOAD: Duration = Duration::from_secs(3);
/// Longest answer to another tenant's text meanwhile.
const SLOWEST_NEIGHBOUR: Duration = Duration::from_secs(1);

pub(crate) fn run(seed: u64, progress: &Progress) -> Result<()> {
    let compiler = Compiler::new()?;
    let mut random = Random::new(!seed);
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| neighbour(&compiler, progress));
        while !progress.stopped() || Progress::get(&progress.texts) < TEXTS {
            let text = hostile::text(&mut random);
            let started = Instant::now();
            let answer = compiler.compile("hostile", &text);
            took(&progress.slowest_text_us, started, SLOWEST, &format!("{text:?}"), progress);
            Progress::add(&progress.texts, 1);
            match answer {
                Ok(filter) => {
                    Progress::add(&progress.programs, 1);
                    load(&filter, progress);
                }
                Err(FilterError::Exhausted { reason }) => {
                    Progress::add(&progress.exhausted, 1);
                    if reason.contains("crashed") {
                        println!("cut off ({reason}): {text:?}");
                    }
                }
                Err(error) if error.is_refusal() => {}
                Err(error) => progress.found(format!("{text:?}: {error}")),
            }
            if random.once_in(20) {
                raw(&mut random, progress)?;
            }
            // Enough of them: leave the processors to the comparisons.
            if Progress::get(&progress.texts) > TEXTS {
                std::thread::sleep(started.elapsed().min(Duration::from_millis(200)));
            }
        }
        neighbour.join().unwrap_or_else(|_| anyhow::bail!("the neighbour has panicked"))
    })
}

/// What the compiler gives out, the kernel must take, and soon.
fn load(filter: &Filter, progress: &Progress) {
    let (started, text) = (Instant::now(), filter.expression());
    if let Err(error) = LoadedFilter::load(filter) {
        progress.found(format!("`{text}`: the kernel refuses it: {error}"));
    }
    took(&progress.slowest_load_us, started, SLOWEST_LOAD, text, progress);
}

/// Bytes straight to the child, past what the parent refuses at once.
fn raw(random: &mut Random, progress: &Progress) -> Result<()> {
    let bytes = hostile::bytes(random);
    let mut child = Command::new("/proc/self/exe")
        .arg("compile-filter")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("the child")?;
    if let Some(mut stdin) = child.stdin.take() {
        // It need not read all.
        let _ = stdin.write_all(&bytes);
    }
    let mut answer = Vec::new();
    child.stdout.take().context("its output")?.read_to_end(&mut answer)?;
    let status = child.wait()?;
    Progress::add(&progress.texts, 1);
    if !status.success() || answer.len() < 5 {
        progress.found(format!("{bytes:02x?}: the child ended with {status} and {} bytes", answer.len()));
    }
    Ok(())
}

/// Texts that no cache has, one after the other.
fn neighbour(compiler: &Compiler, progress: &Progress) -> Result<()> {
    for number in 0u32.. {
        if progress.stopped() {
            break;
        }
        let text = format!("tcp port {} or len > {number}", number % 65536);
        let started = Instant::now();
        if let Err(error) = compiler.compile("neighbour", &text) {
            progress.found(format!("`{text}`: {error}"));
        }
        took(&progress.slowest_neighbour_us, started, SLOWEST_NEIGHBOUR, &text, progress);
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn took(slowest: &AtomicU64, started: Instant, limit: Duration, text: &str, progress: &Progress) {
    let elapsed = started.elapsed();
    slowest.fetch_max(elapsed.as_micros() as u64, Ordering::Relaxed);
    if elapsed > limit {
        progress.found(format!("{text}: the answer took {elapsed:?}"));
    }
}
