//! Files at a high rate: rotation, copies while they grow.

use std::time::Duration;

use podtap_tests::agent::{ATTACHED, Agent};
use podtap_tests::blocks;
use podtap_tests::manifest::{packet_capture, pod};
use podtap_tests::pods::Pods;
use podtap_tests::stalls::Stalls;
use podtap_tests::tools::agree;
use podtap_tests::traffic::{Flood, sink};
use serde_json::json;

use crate::captured::{Captured, PORT};

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn rotation_by_size_keeps_the_newest_files_and_loses_nothing_between_them() {
    const PACKETS: u64 = 20_000;
    let pods = Pods::with(&["a", "b"]).unwrap();
    let (a, b) = (pods.pod("a"), pods.pod("b"));
    let _sink = sink(b, 9000).unwrap();
    let mut agent = Agent::start("rotate").unwrap();
    agent.apply("a.yaml", &pod(a)).unwrap();
    let rotation = [("all", json!({"fileBytes": "1Mi"})), ("some", json!({"fileBytes": "1Mi", "files": 3}))];
    for (name, rotation) in rotation {
        let spec = json!({"podNames": ["a"], "filter": "udp port 9000", "rotation": rotation});
        agent.apply(&format!("{name}.yaml"), &packet_capture(name, spec)).unwrap();
        agent.wait_capture(name, &ATTACHED).unwrap();
    }
    // What comes while the agent does not have its turn for half a second fits into a ring.
    Flood { frame: 1000, rate: Some(7_000), ..Flood::new(a, b, 9000, PACKETS) }.run().unwrap();
    for name in ["all", "some"] {
        agent.remove(&format!("{name}.yaml")).unwrap();
        let record = agent.wait_capture(name, &["Stopped"]).unwrap();
        assert_eq!((record.packets(), record.dropped()), (PACKETS, 0), "{name}");
        let numbers = record.numbers(9000).unwrap();
        let files = record.files();
        let first = if name == "all" {
            assert!((19..=22).contains(&files.len()), "{} files of 1 MiB", files.len());
            0
        } else {
            assert_eq!(files.len(), 3);
            PACKETS - numbers.len() as u64
        };
        assert_eq!(numbers, (first..PACKETS).collect::<Vec<_>>(), "{name}");
        let on_disk = std::fs::read_dir(record.directory()).unwrap().filter(|entry| {
            entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "pcapng")
        });
        assert_eq!(on_disk.count(), files.len());
        let mut packets = PACKETS - numbers.len() as u64;
        for file in &files {
            assert!(file.metadata().unwrap().len() <= 1 << 20, "{}", file.display());
            let blocks = blocks::read(file).unwrap();
            packets += blocks.packets.len() as u64;
            let last = blocks.statistics.last().expect("each ends with its statistics");
            let option = |code| {
                let value = &last.iter().find(|(found, _)| *found == code).expect("an option").1;
                u64::from_le_bytes(value[..].try_into().unwrap())
            };
            // As of when it was closed: received, accepted by the filter, delivered.
            let [received, accepted, delivered] = [4, 6, 8].map(option);
            assert_eq!(delivered, packets, "{name}: {}", file.display());
            assert!(delivered <= accepted && accepted <= received, "{delivered} {accepted} {received}");
        }
        agree(&files[1]).unwrap();
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn a_copy_at_any_moment_is_whole_and_at_most_a_second_old() {
    const RATE: u64 = 20_000;
    let mut captured = Captured::by_label("copy", &[], &[]);
    let copy = captured.agent.home().join("copy.pcapng");
    // A quiet one, then a fast one.
    for (round, (rate, frame)) in [(100, 64), (RATE, 1400)].into_iter().enumerate() {
        let flood = captured.flood(captured.pods.pod("a"), rate * 3);
        let sending = Flood { rate: Some(rate), frame, ..flood }.start().unwrap();
        let mut largest = 0;
        for moment in 0..25 {
            std::thread::sleep(Duration::from_millis(70 + moment * 3));
            let Some(file) = captured.agent.records().unwrap()[0].files().pop() else { continue };
            std::fs::copy(&file, &copy).unwrap();
            let packets = blocks::read(&copy).unwrap().packets.len();
            assert!(packets >= largest, "a copy has fewer packets than one before");
            largest = packets;
            if moment % 8 == 0 {
                agree(&copy).unwrap();
            }
        }
        sending.wait().unwrap();
        let stalls = Stalls::watch();
        std::thread::sleep(Duration::from_secs(1));
        std::thread::sleep(stalls.so_far());
        let record = captured.agent.wait_pod("a", &["Capturing"]).unwrap();
        let numbers = record.numbers(PORT).unwrap();
        let expected = if round == 0 { 300 } else { 300 + RATE * 3 };
        assert_eq!(numbers.len() as u64 + record.dropped(), expected, "a second later all are there");
    }
    std::fs::remove_file(copy).unwrap();
}
