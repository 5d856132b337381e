//! Filters in the kernel against libpcap's interpreter, packet by packet.

#[path = "../difference/mod.rs"]
mod difference;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use capture_filter::FilterError;
use capture_filter::kernel::{FilteredSocket, LoadedFilter};

use difference::batch::{Batch, MAX_FILTERS};
use difference::random::Random;
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

/// Each frame once without and once with a tag beside it; how many of them a test run takes, and how many matched.
fn compare(pairs: &[Pair], frames: &[Vec<u8>], random: &mut Random) -> (usize, usize) {
    let (mut comparisons, mut matches) = (0, 0);
    for pairs in pairs.chunks(MAX_FILTERS) {
        let batch = Batch::load(pairs.iter().map(|pair| &pair.filter)).expect("the kernel takes them");
        for frame in frames.iter().filter(|frame| frame.len() > 14) {
            let tag = MetadataTag { protocol: random.pick(&[0x8100, 0x88a8]), tci: tci(random) };
            for (tag, whole) in [(None, frame.clone()), (Some(tag), tag.put_into(frame))] {
                let bits = batch.run(frame, tag).expect("a frame that a test run takes");
                for (index, pair) in pairs.iter().enumerate() {
                    let (kernel, expected) = (bits >> index & 1 == 1, pair.expects(&whole));
                    let text = pair.filter.expression();
                    assert_eq!(
                        kernel, expected,
                        "`{text}`, tag in metadata: {tag:x?}, with it: {whole:02x?}"
                    );
                    matches += usize::from(kernel);
                    comparisons += 1;
                }
            }
        }
    }
    (comparisons, matches)
}

fn tci(random: &mut Random) -> u16 {
    random.pick(&packets::VLANS) | (random.below(16) as u16) << 12
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn every_kind_of_expression_means_the_same_with_any_place_of_the_tag() {
    let mut random = Random::new(1);
    let pairs = pairs();
    let frames: Vec<Vec<u8>> = (0..1500).map(|_| packets::frame(&mut random)).collect();
    let (comparisons, matches) = compare(&pairs, &frames, &mut random);
    assert!(comparisons >= pairs.len() * 2 * 1000, "{comparisons} comparisons");
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
        let filter = LoadedFilter::load(&pair.filter.translation().code).expect("the kernel takes it");
        for length in (0..64).chain([1500, 4000, 10_000, 65_549]) {
            let mut frame = packets::frame(&mut random);
            frame.resize(length, 7);
            let kernel = filter.matches(&frame).expect("any frame");
            assert_eq!(kernel, pair.expects(&frame), "`{text}`, {length} bytes");
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
        let (classic, code) =
            (pair.filter.classic().instructions().len(), pair.filter.translation().code.len());
        println!("{name}: {classic} classic, {code} eBPF, compiled in {compiled:?}, loaded in {loaded:?}");
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
    let (comparisons, matches) = compare(&pairs, &frames, &mut random);
    assert!(comparisons > 200_000, "{comparisons}");
    assert!(matches > comparisons / 20, "{matches} of {comparisons} matched");
}
