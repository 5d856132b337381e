//! Kernel against libpcap, and against the rules where libpcap's compiler does not go.

use anyhow::{Context, Result};
use capture_filter::kernel::FilteredSocket;

use crate::Progress;
use crate::difference::batch::{Batch, MAX_FILTERS};
use crate::difference::loopback::Loopback;
use crate::difference::random::Random;
use crate::difference::verdicts::Verdicts;
use crate::difference::{MetadataTag, Pair, expressions, packets, reads_unwritten_memory};

/// Frames that each expression meets, each with and without a tag beside it: enough to be worth the batch's load.
const FRAMES: usize = 6000;
/// Frames of two parts that each expression meets, in the same ways, sent by a device.
const PARTED_FRAMES: usize = 500;
/// Programs in a batch that no expression becomes, compared with the rules of classic BPF.
const PROGRAMS: usize = 4;
/// Frames of an expression that go through sockets; one expression of a batch does.
const SOCKET_FRAMES: usize = 50;

pub(crate) fn run(seed: u64, comparisons: u64, progress: &Progress) -> Result<()> {
    let mut random = Random::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
    let catalogue = expressions::catalogue();
    let device = Loopback::new().context("a network namespace with a device")?;
    while !progress.stopped() && Progress::get(&progress.comparisons) < comparisons {
        let pairs = pairs(&mut random, &catalogue, progress);
        through_programs(&pairs, &device, &mut random, progress)?;
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

/// All in one program, or in two if they are too much for the verifier together, and so on.
fn through_programs(
    pairs: &[Pair],
    device: &Loopback,
    random: &mut Random,
    progress: &Progress,
) -> Result<()> {
    match Batch::load(pairs.iter().map(|pair| &pair.filter)) {
        Ok(batch) => {
            one_batch(&batch, pairs, random, progress)?;
            parted(&batch, device, pairs, random, progress)
        }
        Err(_) if pairs.len() > 1 => {
            let (some, others) = pairs.split_at(pairs.len() / 2);
            through_programs(some, device, random, progress)?;
            through_programs(others, device, random, progress)
        }
        Err(error) => {
            progress.found(format!("`{}`: the kernel refuses it: {error}", pairs[0].filter.expression()));
            Ok(())
        }
    }
}

fn one_batch(batch: &Batch, pairs: &[Pair], random: &mut Random, progress: &Progress) -> Result<()> {
    for _ in 0..FRAMES {
        let frame = packets::frame(random);
        if frame.len() <= 14 {
            continue;
        }
        let tag = tag(random);
        for (tag, whole) in [(None, &frame), (Some(tag), &tag.put_into(&frame))] {
            let said = batch.run(&frame, tag).with_context(|| format!("a test run over {frame:02x?}"))?;
            compare(pairs, said, whole, || format!("tag in metadata {tag:x?}"), progress);
        }
        if progress.stopped() {
            break;
        }
    }
    Ok(())
}

/// Frames that are not in one part, so that direct reads meet the end of the first.
fn parted(
    batch: &Batch,
    device: &Loopback,
    pairs: &[Pair],
    random: &mut Random,
    progress: &Progress,
) -> Result<()> {
    let Some(sent) = batch.on(device).context("attaching to a device")? else { return Ok(()) };
    for _ in 0..PARTED_FRAMES {
        let (frame, linear) = packets::parted(random);
        let tag = tag(random);
        for (tag, whole) in [(None, &frame), (Some(tag), &tag.put_into(&frame))] {
            let said = sent.run(&frame, tag, linear).context("sending a frame")?;
            let how = || format!("first part of {linear} bytes, tag in metadata {tag:x?}");
            compare(pairs, said, whole, how, progress);
            Progress::add(&progress.parted, pairs.len() as u64);
        }
        if progress.stopped() {
            break;
        }
    }
    Ok(())
}

fn tag(random: &mut Random) -> MetadataTag {
    MetadataTag { protocol: random.pick(&[0x8100, 0x88a8]), tci: random.pick(&packets::VLANS) }
}

/// Both ways with what is to be said. An expression over a packet counts once.
fn compare(pairs: &[Pair], said: Verdicts, whole: &[u8], how: impl Fn() -> String, progress: &Progress) {
    let expected = pairs.iter().rev().fold(0, |bits, pair| bits << 1 | u32::from(pair.expects(whole)));
    Progress::add(&progress.comparisons, pairs.len() as u64);
    Progress::add(&progress.matches, expected.count_ones().into());
    for (way, bits) in said.each() {
        for (index, pair) in pairs.iter().enumerate().filter(|(index, _)| (bits ^ expected) >> index & 1 == 1)
        {
            let (text, matched) = (pair.filter.expression(), bits >> index & 1 == 1);
            progress.found(format!("`{text}`: {way} says {matched}, {}, frame {whole:02x?}", how()));
        }
    }
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
