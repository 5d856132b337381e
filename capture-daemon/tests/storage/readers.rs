//! What the usual readers make of the files.

use std::{
    fs,
    io::Cursor,
    net::IpAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use capture_daemon::{
    pcapng::{FileHeader, Interface, Statistics, filler},
    storage::{Append, Storage},
};
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::support::{Dice, Scratch, Taker, UNLIMITED, captures, closing, config, packet};

fn full_header() -> FileHeader {
    FileHeader {
        hardware: "x86_64, 2 CPUs".into(),
        os: "Linux 6.18".into(),
        application: "podtap 0.1.0".into(),
        comments: vec!["node a, capture b".into(), "request: Label".into()],
        interface: Interface {
            name: "eth0 (veth12)".into(),
            description: "shop/web-0".into(),
            filter: Some("tcp port 80 and host 10.0.0.1".into()),
            snap_length: 65_553,
            os: "Linux".into(),
            hardware: "veth".into(),
            comments: vec!["pod UID 1234".into(), "app=web".into()],
        },
        names: vec![
            ("10.0.0.1".parse::<IpAddr>().unwrap(), vec!["web-0".into(), "web-0.shop".into()]),
            ("fd00::1".parse::<IpAddr>().unwrap(), vec!["web-0".into()]),
            ("10.0.0.2".parse::<IpAddr>().unwrap(), vec![]),
        ],
    }
}

const STATISTICS: Statistics = Statistics {
    start: 1_796_120_000_123_456_789,
    end: 1_796_120_060_000_000_001,
    received: 1000,
    accepted: 900,
    os_drop: 3,
    delivered: 800,
    sampled_out: 50,
    rate_drop: 40,
    storage_drop: 7,
};

/// Every kind of block, as one file.
fn one_of_each(header: &FileHeader) -> Vec<u8> {
    [
        header.to_bytes(),
        packet(1, 108),
        filler(12),
        filler(4096),
        packet(2, 1444),
        STATISTICS.to_bytes(STATISTICS.end),
    ]
    .concat()
}

fn blocks(bytes: &[u8]) -> Vec<Block<'static>> {
    let mut reader = PcapNgReader::new(Cursor::new(bytes)).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block() {
        blocks.push(block.unwrap().0.into_owned());
    }
    blocks
}

#[test]
fn pcap_file_reads_back_what_was_written() {
    let header = full_header();
    let bytes = one_of_each(&header);
    let mut reader = PcapNgReader::new(Cursor::new(&bytes[..])).unwrap();
    let section = format!("{:?}", reader.section());
    for text in ["x86_64, 2 CPUs", "Linux 6.18", "podtap 0.1.0", "node a, capture b", "request: Label"] {
        assert!(section.contains(text), "{text}: {section}");
    }
    while reader.next_block().is_some() {}

    let blocks = blocks(&bytes);
    assert_eq!(blocks.len(), 7);
    let Block::InterfaceDescription(interface) = &blocks[0] else { panic!("{:?}", blocks[0]) };
    assert_eq!(interface.snaplen, 65_553);
    let options = format!("{:?}", interface.options);
    for text in ["eth0 (veth12)", "shop/web-0", "resol: 9", "pod UID 1234", "app=web"] {
        assert!(options.contains(text), "{text}: {options}");
    }
    let filter = [&[11, 0, 30, 0, 0], &b"tcp port 80 and host 10.0.0.1"[..]].concat();
    assert!(bytes.windows(filter.len()).any(|window| window == filter));
    let Block::NameResolution(names) = &blocks[1] else { panic!("{:?}", blocks[1]) };
    let names = format!("{names:?}");
    assert!(names.contains("web-0.shop") && names.matches("Ipv").count() >= 2, "{names}");
    for (at, length) in [(2, 108), (5, 1444)] {
        let Block::EnhancedPacket(found) = &blocks[at] else { panic!("{:?}", blocks[at]) };
        assert_eq!((found.data.len(), found.original_len as usize), (length - 44, length - 44));
    }
    let Block::InterfaceStatistics(statistics) = &blocks[6] else { panic!("{:?}", blocks[6]) };
    let options = format!("{:?}", statistics.options);
    for text in [
        "IsbIfRecv(1000)",
        "IsbFilterAccept(900)",
        "IsbOsDrop(3)",
        "IsbUsrDeliv(800)",
        "left out by sampling: 50; dropped by rate limit: 40; dropped by storage: 7",
    ] {
        assert!(options.contains(text), "{text}: {options}");
    }
}

#[test]
fn hostile_texts_make_no_broken_blocks() {
    let mut dice = Dice(11);
    for length in [0, 1, 5, 65_535, 65_536, 200_000] {
        let mut text = |seed: &str| {
            let mut text = String::from(seed);
            while text.len() < length {
                text.push(['\0', 'x', 'ä', '\u{10ffff}', '\n', '"', '\u{202e}'][dice.below(7) as usize]);
            }
            text
        };
        let header = FileHeader {
            hardware: text("h"),
            os: text("o"),
            application: text("a"),
            comments: (0..30).map(|_| text("c")).collect(),
            interface: Interface {
                name: text("n"),
                description: text("d"),
                filter: Some(text("f")),
                snap_length: 100,
                os: text("o"),
                hardware: text("h"),
                comments: (0..30).map(|_| text("c")).collect(),
            },
            names: (0..200)
                .map(|number| (IpAddr::from([10, 0, 0, number as u8]), vec![text("n"); 3]))
                .collect(),
        };
        let bytes = one_of_each(&header);
        assert_eq!(blocks(&bytes).len(), 7, "{length}");
        assert!(header.to_bytes().len() < 1 << 20);
    }
    // Nothing at all is a header too.
    assert_eq!(blocks(&one_of_each(&FileHeader::default())).len(), 6);
}

/// Runs a reader over a file; its output must be without complaint.
fn read_with(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let complaint = told
        .lines()
        .filter(|line| !line.contains("Running as user") && !line.starts_with("reading from file"))
        .collect::<String>();
    assert!(output.status.success() && complaint.is_empty(), "{program} {}: {complaint}", file.display());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn plural(packets: u64) -> String {
    format!("{packets} packet{}", if packets == 1 { "" } else { "s" })
}

fn all_readers(file: &Path, packets: u64) {
    let count = |text: String| text.lines().count() as u64;
    assert_eq!(
        count(read_with("tshark", &["-n", "-T", "fields", "-e", "frame.number", "-r"], file)),
        packets
    );
    assert_eq!(read_with("tcpdump", &["--count", "-r"], file).trim_end(), plural(packets));
    let told = read_with("capinfos", &["-c", "-M", "-T", "-r", "-m"], file);
    assert!(
        told.trim_end().ends_with(&format!(",{packets}")) || told.contains(&packets.to_string()),
        "{told}"
    );
}

#[test]
#[ignore = "needs tshark and tcpdump: cargo xtask test --kernel"]
fn tshark_tcpdump_and_capinfos_read_every_kind_of_block() {
    let scratch = Scratch::new();
    let file = scratch.0.join("each.pcapng");
    fs::write(&file, one_of_each(&full_header())).unwrap();
    all_readers(&file, 2);
    let told = read_with("capinfos", &[], &file);
    for text in [
        "podtap 0.1.0",
        "Linux 6.18",
        "x86_64, 2 CPUs",
        "eth0 (veth12)",
        "shop/web-0",
        "tcp port 80 and host 10.0.0.1",
    ] {
        assert!(told.contains(text), "{text}: {told}");
    }
    let frames =
        ["-n", "-T", "fields", "-e", "frame.interface_name", "-e", "frame.interface_description", "-r"];
    assert!(read_with("tshark", &frames, &file).contains("eth0 (veth12)\tshop/web-0"));
}

#[test]
#[ignore = "needs tshark and tcpdump: cargo xtask test --kernel"]
fn readers_take_copies_of_a_growing_file() {
    let scratch = Scratch::new();
    let storage = Storage::open(config(&scratch.0.join("data"))).unwrap();
    let mut taker = Taker::new(&storage, "web-0", UNLIMITED);
    let mut read = 0;
    thread::scope(|scope| {
        let (directory, scratch) = (taker.directory.clone(), &scratch.0);
        let reading = scope.spawn(move || {
            let copy = scratch.join("copy.pcapng");
            let start = Instant::now();
            let mut copies = 0;
            // Six seconds, or as long as it takes until some have been read.
            while start.elapsed() < Duration::from_secs(if copies < 3 { 60 } else { 6 }) {
                let Some(file) = captures(&directory).pop() else { continue };
                // As users do it.
                assert!(Command::new("cp").args([&file, &copy]).status().unwrap().success());
                let packets = crate::support::parse(&fs::read(&copy).unwrap()).packets.len() as u64;
                if packets > 0 {
                    all_readers(&copy, packets);
                    copies += 1;
                }
            }
            copies
        });
        let mut dice = Dice(5);
        let mut clock = Instant::now();
        let mut number = 0;
        while !reading.is_finished() {
            for _ in 0..[1, 3, 40, 800][dice.below(4) as usize] {
                let length = [108, 1444, 1444, 9044][dice.below(4) as usize];
                assert_eq!(taker.append(&packet(number, length)), Append::Taken);
                number += 1;
            }
            clock += Duration::from_millis(400);
            taker.stream.tick(clock, closing);
            thread::sleep(Duration::from_millis(20));
        }
        read = reading.join().unwrap();
    });
    assert!(read >= 3, "{read} copies");
    let closed = taker.close();
    all_readers(&captures(&closed.directory)[0], closed.finished().1);
}
