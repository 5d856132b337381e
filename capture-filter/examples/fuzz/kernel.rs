//! Kernel against libpcap, and against the rules where libpcap's compiler does not go.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use capture_filter::kernel::FilteredSocket;

use crate::Progress;
use crate::difference::batch::{Batch, MAX_FILTERS};
use crate::difference::random::Random;
use crate::difference::{MetadataTag, Pair, expressions, packets, reads_unwritten_memory};

/// Frames that each expression meets, each with and without a tag beside it: enough to be worth the batch's load.
const FRAMES: usize = 6000;
/// Programs in a batch that no expression becomes, compared with the rules of classic BPF.
const PROGRAMS: usize = 4;
/// Frames of an expression that go through sockets; one expression of a batch does.
const SOCKET_FRAMES: usize = 50;

pub(crate) fn run(seed: u64, comparisons: u64, progress: &Progress) -> Result<()> {
    let mut random = Random::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let catalogue = expressions::catalogue();
    while !progress.stopped() && Progress::get(&progress.comparisons) < comparisons {
        let pairs = pairs(&mut random, &catalogue, progress);
        match Batch::load(pairs.iter().map(|pair| &pair.filter)) {
            Ok(batch) => one_batch(&batch, &pairs, &mut random, progress)?,
            Err(error) => culprit(&pairs, &error.to_string(), progress),
        }
        through_sockets(&pairs[random.below(pairs.len())], &mut random, progress)?;
    }
    Ok(())
}

fn pairs(random: &mut Random, catalogue: &[String], progress: &Progress) -> Vec<Pair> {
    let mut pairs = Vec::with_capacity(MAX_FILTERS);
    pairs.extend((0..PROGRAMS).map(|_| Pair::program(random)));
    while pairs.len() < MAX_FILTERS {
        let expression = if random.once_in(4) {
            catalogue[random.below(catalogue.len())].clone()
        } else {
            expressions::generate(random)
        };
        match Pair::new(&expression) {
            Ok(pair) if !reads_unwritten_memory(pair.filter.classic()) => pairs.push(pair),
            _ => Progress::add(&progress.refused, 1),
        }
    }
    Progress::add(&progress.expressions, pairs.len() as u64);
    pairs
}

fn one_batch(batch: &Batch, pairs: &[Pair], random: &mut Random, progress: &Progress) -> Result<()> {
    for _ in 0..FRAMES {
        let frame = packets::frame(random);
        if frame.len() <= 14 {
            continue;
        }
        let tag = MetadataTag { protocol: random.pick(&[0x8100, 0x88a8]), tci: random.pick(&packets::VLANS) };
        for (tag, whole) in [(None, &frame), (Some(tag), &tag.put_into(&frame))] {
            let kernel = batch.run(&frame, tag).with_context(|| format!("a test run over {frame:02x?}"))?;
            let expected =
                pairs.iter().rev().fold(0, |bits, pair| bits << 1 | u32::from(pair.expects(whole)));
            Progress::add(&progress.comparisons, pairs.len() as u64);
            Progress::add(&progress.matches, kernel.count_ones().into());
            for (index, pair) in
                pairs.iter().enumerate().filter(|(index, _)| (kernel ^ expected) >> index & 1 == 1)
            {
                let (text, matched) = (pair.filter.expression(), kernel >> index & 1 == 1);
                progress.found(format!(
                    "`{text}`: kernel says {matched}, tag in metadata {tag:x?}, frame {whole:02x?}"
                ));
            }
        }
        if progress.stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok(())
}

/// The kernel has refused a batch: which filter was it?
fn culprit(pairs: &[Pair], error: &str, progress: &Progress) {
    let mut alone = pairs.iter().filter_map(|pair| {
        let error = Batch::load([&pair.filter].into_iter()).err()?;
        Some(format!("`{}`: the kernel refuses it: {error}", pair.filter.expression()))
    });
    progress.found(alone.next().unwrap_or_else(|| format!("the kernel refuses a batch of 32: {error}")));
}

/// Frames of any length, those too that no test run takes.
fn through_sockets(pair: &Pair, random: &mut Random, progress: &Progress) -> Result<()> {
    let socket = FilteredSocket::new(&pair.filter.translation().code)?;
    for _ in 0..SOCKET_FRAMES {
        let mut frame = packets::frame(random);
        match random.below(4) {
            0 => frame.truncate(random.below(40)),
            1 => frame.resize(frame.len() + random.below(60_000), 0x55),
            _ => {}
        }
        let (kernel, expected) = (socket.matches(&frame)?, pair.expects(&frame));
        Progress::add(&progress.comparisons, 1);
        Progress::add(&progress.through_sockets, 1);
        if kernel != expected {
            let text = pair.filter.expression();
            progress.found(format!("`{text}`: kernel says {kernel}, through a socket, frame {frame:02x?}"));
        }
    }
    Ok(())
}
