//! Filters in the kernel against libpcap's interpreter, packet by packet.

#[path = "../difference/mod.rs"]
mod difference;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use capture_filter::FilterError;
use capture_filter::classic::Alu;
use capture_filter::insn::{Insn, Jump, Reg, Test};
use capture_filter::kernel::sys::{self, ProgramType};
use capture_filter::kernel::{FilteredSocket, LoadedFilter};

use difference::batch::{Batch, MAX_FILTERS};
use difference::loopback::{Loopback, MIN_PARTED};
use difference::random::Random;
use difference::verdicts::{Verdicts, VerdictsMap};
use difference::{MetadataTag, Pair, expressions, packets, reads_unwritten_memory};

fn pairs() -> Vec<Pair> {
    let all = expressions::catalogue();
    assert!(all.len() >= 300, "{}", all.len());
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "some are there twice");
    let (pairs, refused): (Vec<_>, Vec<_>) =
        all.iter().map(|text| Pair::new(text).map_err(|error| (text, error))).partition(Result::is_ok);
    assert!(refused.is_empty(), "{:#?}", refused.into_iter().filter_map(Result::err).collect::<Vec<_>>());
    let pairs: Vec<Pair> = pairs.into_iter().flatten().collect();
    let undefined: Vec<_> = pairs
        .iter()
        .map(|pair| &pair.filter)
        .filter(|filter| reads_unwritten_memory(filter.classic()))
        .map(|filter| filter.expression())
        .collect();
    assert!(undefined.is_empty(), "{undefined:?}");
    pairs
}

/// How many comparisons were made, and how often the filter matched.
#[derive(Default)]
struct Compared {
    comparisons: usize,
    matches: usize,
}

impl Compared {
    /// What is expected of the filters is what they say in each way.
    fn add(&mut self, pairs: &[Pair], verdicts: Verdicts, whole: &[u8], tag: Option<MetadataTag>) {
        for (index, pair) in pairs.iter().enumerate() {
            let (expected, text) = (pair.expects(whole), pair.filter.expression());
            for (way, bits) in verdicts.each() {
                let said = bits >> index & 1 == 1;
                assert_eq!(
                    said, expected,
                    "`{text}`, {way}, tag in metadata: {tag:x?}, with it: {whole:02x?}"
                );
                self.matches += usize::from(said);
                self.comparisons += 1;
            }
        }
    }
}

/// Each frame that a test run takes, once without and once with a tag beside it.
fn compare(pairs: &[Pair], frames: &[Vec<u8>], random: &mut Random) -> Compared {
    let mut compared = Compared::default();
    for pairs in pairs.chunks(MAX_FILTERS) {
        let batch = Batch::load(pairs.iter().map(|pair| &pair.filter)).expect("the kernel takes them");
        for frame in frames.iter().filter(|frame| frame.len() > 14) {
            let tag = tag(random);
            for (tag, whole) in [(None, frame.clone()), (Some(tag), tag.put_into(frame))] {
                let verdicts = batch.run(frame, tag).expect("a frame that a test run takes");
                compared.add(pairs, verdicts, &whole, tag);
            }
        }
    }
    compared
}

/// Frames that a device sends, with the length of the part that is to be linear. Nothing is compared without tcx.
fn compare_sent(pairs: &[Pair], frames: &[(Vec<u8>, u16)], random: &mut Random) -> Option<Compared> {
    let device = Loopback::new().expect("a network namespace");
    let mut compared = Compared::default();
    for pairs in pairs.chunks(MAX_FILTERS) {
        let batch = Batch::load(pairs.iter().map(|pair| &pair.filter)).expect("the kernel takes them");
        let sent = batch.on(&device).expect("it can be attached")?;
        for (frame, linear) in frames {
            let tag = tag(random);
            for (tag, whole) in [(None, frame.clone()), (Some(tag), tag.put_into(frame))] {
                let verdicts = sent.run(frame, tag, *linear).expect("a frame that can be sent");
                compared.add(pairs, verdicts, &whole, tag);
            }
        }
    }
    Some(compared)
}

fn tag(random: &mut Random) -> MetadataTag {
    let tci = random.pick(&packets::VLANS) | (random.below(16) as u16) << 12;
    MetadataTag { protocol: random.pick(&[0x8100, 0x88a8]), tci }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn every_kind_of_expression_means_the_same_with_any_place_of_the_tag() {
    let mut random = Random::new(1);
    let pairs = pairs();
    let frames: Vec<Vec<u8>> = (0..1500).map(|_| packets::frame(&mut random)).collect();
    let Compared { comparisons, matches } = compare(&pairs, &frames, &mut random);
    assert!(comparisons >= pairs.len() * 4 * 1000, "{comparisons} comparisons");
    // Not all the same answer.
    assert!(matches > comparisons / 50 && matches < comparisons / 2, "{matches} of {comparisons} matched");
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn each_expression_matches_some_frame_and_not_another() {
    let mut random = Random::new(2);
    let frames: Vec<Vec<u8>> = (0..30_000).map(|_| packets::frame(&mut random)).collect();
    let one_sided: Vec<String> = pairs()
        .into_iter()
        .filter(|pair| {
            let matched = frames.iter().filter(|frame| pair.expects(frame)).count();
            matched == 0 || matched == frames.len()
        })
        .map(|pair| pair.filter.expression().to_owned())
        .collect();
    for meant in ["", "1 = 1", "ether[100000] = 1", "ether[len:1] = 0"] {
        assert!(one_sided.iter().any(|text| text == meant), "`{meant}`: {one_sided:?}");
    }
    assert!(one_sided.len() <= 20, "comparing tells nothing about {one_sided:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn generated_expressions_mean_the_same() {
    let mut random = Random::new(3);
    let pairs: Vec<Pair> = std::iter::repeat_with(|| Pair::new(&expressions::generate(&mut random)))
        .flatten()
        .filter(|pair| !reads_unwritten_memory(pair.filter.classic()))
        .take(320)
        .collect();
    let frames: Vec<Vec<u8>> = (0..1000).map(|_| packets::frame(&mut random)).collect();
    compare(&pairs, &frames, &mut random);
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn frames_that_no_test_run_takes_mean_the_same_through_a_socket() {
    let mut random = Random::new(4);
    let mut frames: Vec<Vec<u8>> = (0..=60)
        .map(|length| {
            let mut frame = packets::frame(&mut random);
            frame.resize(length, 0x45);
            frame
        })
        .collect();
    // Long enough to be a packet of several parts, with fields that point behind the first.
    for length in [3000, 9000, 20_000, 66_000, 200_000] {
        let mut frame = packets::frame(&mut random);
        frame.resize(14.max(frame.len()), 0);
        let start = frame.len();
        frame.resize(length, 0);
        random.fill(&mut frame[start..]);
        frames.push(frame);
    }
    for pair in pairs() {
        let socket = FilteredSocket::new(&pair.filter.translation().code).expect("the kernel takes it");
        for frame in &frames {
            let kernel = socket.matches(frame).expect("a socket takes any frame");
            assert_eq!(kernel, pair.expects(frame), "`{}`: {frame:02x?}", pair.filter.expression());
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_loaded_filter_takes_every_frame() {
    let mut random = Random::new(5);
    for text in ["icmp", "udp[0:2] = 53 or tcp", "len < 34", "ether[5000] = 7"] {
        let pair = Pair::new(text).expect(text);
        let filter = LoadedFilter::load(&pair.filter).expect("the kernel takes it");
        for length in (0..64).chain([1500, 4000, 10_000, 65_549]) {
            let mut frame = packets::frame(&mut random);
            frame.resize(length, 7);
            let kernel = filter.matches(&frame).expect("any frame");
            assert_eq!(kernel, pair.expects(&frame), "`{text}`, {length} bytes");
        }
    }
}

/// Parted frames, and frames of any length from the shortest that a device sends.
fn sent_frames(count: usize, random: &mut Random) -> Vec<(Vec<u8>, u16)> {
    let short = (14..=80).map(|length| {
        let mut frame = packets::frame(random);
        frame.resize(length, 0x45);
        (frame, 0)
    });
    let mut frames: Vec<_> = short.collect();
    frames.extend((0..count).map(|_| packets::parted(random)));
    frames
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn packets_of_several_parts_mean_the_same_wherever_the_first_part_ends() {
    let mut random = Random::new(8);
    let pairs = pairs();
    let frames = sent_frames(1000, &mut random);
    assert!(frames.iter().any(|(frame, _)| frame.len() > 100_000));
    let Some(Compared { comparisons, matches }) = compare_sent(&pairs, &frames, &mut random) else { return };
    assert_eq!(comparisons, pairs.len() * frames.len() * 4);
    assert!(matches > comparisons / 50 && matches < comparisons / 2, "{matches} of {comparisons} matched");
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn programs_that_no_expression_becomes_mean_the_same_over_packets_of_several_parts() {
    let mut random = Random::new(9);
    let pairs: Vec<Pair> = (0..320).map(|_| Pair::program(&mut random)).collect();
    let frames = sent_frames(300, &mut random);
    let Some(Compared { comparisons, matches }) = compare_sent(&pairs, &frames, &mut random) else { return };
    assert!(matches > comparisons / 20, "{matches} of {comparisons} matched");
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn sent_packets_have_the_linear_part_that_they_are_meant_to_have() {
    let device = Loopback::new().expect("a network namespace");
    for (length, linear, readable) in
        [(100, 0, 100), (MIN_PARTED, 14, 14), (MIN_PARTED, 60, 60), (200_000, 0, 14), (200_000, 1000, 1000)]
    {
        for (bytes, expected) in [(readable, 0), (readable + 1, 1)] {
            let verdicts = VerdictsMap::new().expect("a map");
            let code = [
                Insn::load32(Reg::R2, Reg::R1, 76),
                Insn::load32(Reg::R3, Reg::R1, 80),
                Insn::alu64(Alu::Add, Reg::R2, bytes),
                Insn::set(Reg::R4, 0),
                Jump::If64Reg(Test::LessOrEqual, Reg::R2, Reg::R3).insn(1),
                Insn::set(Reg::R4, 1),
            ];
            let program = [&code[..], &verdicts.store(&[Reg::R4]), &[Insn::set(Reg::R0, 2), Insn::EXIT]];
            let program = sys::load(ProgramType::Classifier, &program.concat(), None).expect("a program");
            let Some(_link) = device.attach(&program).expect("it can be attached") else { return };
            device.send(&vec![0x5a; length], 0, linear).expect("it can be sent");
            let beyond = verdicts.read().expect("a value").function;
            assert_eq!(beyond, expected, "{bytes} of {length} bytes, {linear} of them linear");
        }
    }
}

/// The longest `or` list that libpcap's optimizer, whose time grows with its square and more, is done with soon.
fn list(part: impl Fn(usize) -> String) -> String {
    let mut text = part(0);
    for number in 1.. {
        let next = format!(" or {}", part(number));
        if text.len() + next.len() > 800 {
            break;
        }
        text.push_str(&next);
    }
    text
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn long_lists_are_refused_by_us_or_taken_by_the_kernel() {
    let host = |number: usize| format!("10.{}.{}.{}", number % 7, number % 251, number % 256);
    let lists = [
        ("hosts", list(|number| format!("host {}", host(number)))),
        ("short hosts", format!("host {}", list(host))),
        ("sources", format!("src {}", list(host))),
        ("ip6 hosts", list(|number| format!("host 2001:db8::{number:x}"))),
        ("nets", list(|number| format!("net 10.{}.0.0/16", number % 256))),
        ("ports", list(|number| format!("port {}", number * 7))),
        ("short ports", format!("port {}", list(|number| (number * 7).to_string()))),
        ("ranges", list(|number| format!("portrange {}-{}", number * 7, number * 7 + 3))),
        ("bytes", list(|number| format!("ip[{}]={}", number % 60, number % 251))),
        ("computed", list(|number| format!("ip[ip[{}]]={}", number % 60, number % 251))),
        ("straddling", list(|number| format!("ether[ip[{}]:4]={}", number % 60, number % 251))),
        ("nots", list(|number| format!("not ip[{}]={}", number % 60, number % 251))),
        ("computed payload", list(|number| format!("tcp[((tcp[12]&0xf0)>>2)+{number}:2]={}", number % 251))),
        ("vlans", list(|number| format!("ether[14:2]&0xfff={number}"))),
    ];
    for (name, text) in lists {
        let started = Instant::now();
        let pair = match Pair::new(&text) {
            Ok(pair) => pair,
            Err(FilterError::ProgramTooLong { instructions, .. }) => {
                println!("{name}: refused, {instructions} instructions");
                continue;
            }
            Err(error) => panic!("{name}: {error}"),
        };
        let compiled = started.elapsed();
        let started = Instant::now();
        Batch::load([&pair.filter].into_iter()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let loaded = started.elapsed();
        let classic = pair.filter.classic().instructions().len();
        let code = pair.filter.translation().code.len();
        let fast = pair.filter.fast_path(0).map_or(0, |fast| fast.len());
        println!(
            "{name}: {classic} classic, {code} eBPF, {fast} before its call, compiled in {compiled:?}, both loaded \
             in {loaded:?}"
        );
        assert!(loaded < Duration::from_secs(5), "{name}: {loaded:?}");
        let mut random = Random::new(6);
        let frames: Vec<Vec<u8>> = (0..200).map(|_| packets::frame(&mut random)).collect();
        compare(&[pair], &frames, &mut random);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn programs_that_no_expression_becomes_keep_the_rules_of_classic_bpf() {
    let mut random = Random::new(7);
    let pairs: Vec<Pair> = (0..640).map(|_| Pair::program(&mut random)).collect();
    let frames: Vec<Vec<u8>> = (0..200).map(|_| packets::frame(&mut random)).collect();
    let Compared { comparisons, matches } = compare(&pairs, &frames, &mut random);
    assert!(comparisons > 400_000, "{comparisons}");
    assert!(matches > comparisons / 20, "{matches} of {comparisons} matched");
}
