use super::*;
use crate::{DesiredState, Direction};

const NOW: &str = "2026-12-01T10:00:00Z";

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn with(json: &str, caps: &Caps) -> Result<(Settings, Vec<String>), Refusal> {
    let spec: PacketCaptureSpec = serde_json::from_str(json).unwrap();
    from_spec(&spec, time(NOW), &Defaults::default(), caps)
}

/// With caps that clip nothing that these tests ask.
fn wide() -> Caps {
    Caps {
        duration: GoDuration::from_secs(1 << 30),
        bytes: 1 << 50,
        outputs: vec!["archive".into()],
        ..Caps::default()
    }
}

fn refusal(json: &str) -> Refusal {
    with(json, &wide()).expect_err(json)
}

#[test]
fn nothing_asked_gives_the_defaults_without_a_note() {
    let (settings, notes) = with("{}", &Caps::default()).unwrap();
    assert_eq!(
        settings,
        Settings {
            filter: String::new(),
            direction: Direction::Both,
            interface: None,
            snap_length: 65_556,
            headers_only: false,
            sample: 1,
            rate: Rate::default(),
            limits: Limits { packets: None, bytes: 1 << 30 },
            rotation: Rotation { file_bytes: 100 << 20, files: None, interval: None },
            start_time: None,
            window: Window::Duration(GoDuration::from_secs(600)),
            state: DesiredState::Running,
            retention: GoDuration::from_secs(86_400),
            output: Output::default(),
        }
    );
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn everything_asked_within_the_caps_is_taken_as_it_is() {
    let json = r#"{"filter":" tcp port 80\n","direction":"ToPod","interface":"net1","snapLength":"1k","headersOnly":true,"sample":10,
        "rateLimit":{"packetsPerSecond":"100k","bytesPerSecond":"100Mi"},"limits":{"packets":1000000,"bytes":"2Gi"},
        "rotation":{"fileBytes":"1Mi","files":10,"interval":"1h"},"startTime":"2026-12-01T11:00:00+01:00",
        "duration":"1h30m","state":"Paused","retention":"12h","output":{"objectStore":"archive"}}"#;
    let (settings, notes) = with(json, &wide()).unwrap();
    assert_eq!(
        settings,
        Settings {
            filter: "tcp port 80".into(),
            direction: Direction::ToPod,
            interface: Some("net1".into()),
            snap_length: 1000,
            headers_only: true,
            sample: 10,
            rate: Rate { packets_per_second: Some(100_000), bytes_per_second: Some(100 << 20) },
            limits: Limits { packets: Some(1_000_000), bytes: 2 << 30 },
            rotation: Rotation {
                file_bytes: 1 << 20,
                files: Some(10),
                interval: Some(GoDuration::from_secs(3600)),
            },
            start_time: Some(time(NOW)),
            window: Window::Duration(GoDuration::from_secs(5400)),
            state: DesiredState::Paused,
            retention: GoDuration::from_secs(43_200),
            output: Output { object_store: Some("archive".into()) },
        }
    );
    assert!(notes.is_empty(), "{notes:?}");
    let written = serde_json::to_value(&settings).unwrap();
    assert_eq!((&written["duration"], &written["startTime"]), (&"1h30m".into(), &NOW.into()));
    assert_eq!(serde_json::from_value::<Settings>(written).unwrap(), settings);
}

#[test]
fn what_is_beyond_a_cap_is_clipped_and_said() {
    let caps = Caps {
        packets: Some(1000),
        snap_length: 128,
        packets_per_second: Some(10),
        bytes_per_second: Some(1 << 20),
        headers_only: true,
        ..Caps::default()
    };
    let json = r#"{"snapLength":65535,"duration":"2h","limits":{"packets":"1M","bytes":"5Gi"},"retention":"48h",
        "rateLimit":{"packetsPerSecond":11,"bytesPerSecond":"1G"}}"#;
    let (settings, notes) = with(json, &caps).unwrap();
    assert_eq!((settings.snap_length, settings.headers_only), (128, true));
    assert_eq!(settings.limits, Limits { packets: Some(1000), bytes: 1 << 30 });
    assert_eq!(settings.rate, Rate { packets_per_second: Some(10), bytes_per_second: Some(1 << 20) });
    assert_eq!(settings.window, Window::Duration(GoDuration::from_secs(600)));
    assert_eq!(settings.retention, GoDuration::from_secs(86_400));
    assert_eq!(
        notes,
        [
            "snap length 65535 clipped to 128, the node's cap",
            "only headers are kept, as the node's caps say",
            "packets per second 11 clipped to 10, the node's cap",
            "bytes per second 1G clipped to 1Mi, the node's cap",
            "packet limit 1M clipped to 1000, the node's cap",
            "byte limit 5Gi clipped to 1Gi, the node's cap",
            "duration 2h clipped to 10m, the node's cap",
            "retention 48h clipped to 24h, the node's cap",
        ]
    );
}

#[test]
fn caps_hold_for_what_nobody_asked() {
    let caps = Caps {
        duration: GoDuration::from_secs(60),
        bytes: 1 << 20,
        packets: Some(5),
        snap_length: 64,
        packets_per_second: Some(7),
        retention: GoDuration::from_secs(3600),
        ..Caps::default()
    };
    let (settings, notes) = with("{}", &caps).unwrap();
    assert_eq!(settings.window, Window::Duration(GoDuration::from_secs(60)));
    assert_eq!(settings.limits, Limits { packets: Some(5), bytes: 1 << 20 });
    assert_eq!((settings.snap_length, settings.rate.packets_per_second), (64, Some(7)));
    assert_eq!(settings.retention, GoDuration::from_secs(3600));
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn a_window_starts_when_accepted_or_when_asked_and_ends_where_it_must() {
    let (settings, _) = with(r#"{"duration":"10m"}"#, &wide()).unwrap();
    assert_eq!(settings.window(time(NOW)), (time(NOW), time("2026-12-01T10:10:00Z")));
    let (settings, _) = with(r#"{"startTime":"2026-12-02T00:00:00Z","duration":"1m"}"#, &wide()).unwrap();
    assert_eq!(settings.window(time(NOW)), (time("2026-12-02T00:00:00Z"), time("2026-12-02T00:01:00Z")));
    let (settings, notes) = with(r#"{"endTime":"2026-12-01T10:05:00Z"}"#, &Caps::default()).unwrap();
    assert_eq!(settings.window(time(NOW)), (time(NOW), time("2026-12-01T10:05:00Z")));
    assert!(notes.is_empty());
    // One that is over is no mistake: an agent reads it again when it starts anew.
    let (settings, _) = with(r#"{"endTime":"2025-01-01T00:00:00Z"}"#, &Caps::default()).unwrap();
    assert_eq!(settings.window(time(NOW)), (time(NOW), time(NOW)));
    let (settings, notes) = with(r#"{"endTime":"2026-12-01T12:00:00Z"}"#, &Caps::default()).unwrap();
    assert_eq!(settings.window, Window::EndTime(time("2026-12-01T10:10:00Z")));
    assert_eq!(notes, ["end 2026-12-01T12:00:00Z clipped to 2026-12-01T10:10:00Z: 10m is the node's cap"]);
    let (settings, _) = with(r#"{"startTime":"9999-12-30T00:00:00Z","duration":"99h"}"#, &wide()).unwrap();
    assert_eq!(settings.window(time(NOW)).1, Timestamp::MAX);
}

#[test]
fn windows_that_contradict_themselves_are_refused() {
    let both = refusal(r#"{"duration":"1m","endTime":"2026-12-01T12:00:00Z"}"#);
    assert_eq!(both.reason, reasons::INVALID_WINDOW);
    let backwards = refusal(r#"{"startTime":"2026-12-01T12:00:00Z","endTime":"2026-12-01T12:00:00Z"}"#);
    assert_eq!(backwards.reason, reasons::INVALID_WINDOW);
    assert!(backwards.message.contains("write a later one"), "{backwards}");
}

#[test]
fn what_makes_no_sense_is_refused_with_the_field_and_what_to_write() {
    for (json, message) in [
        (
            r#"{"duration":"ten"}"#,
            "spec.duration: \"ten\" is not a duration; write it like 90s, 10m or 1h30m.",
        ),
        (
            r#"{"duration":"0s"}"#,
            "spec.duration: a capture of no time keeps nothing; write 10m, for instance.",
        ),
        (r#"{"snapLength":0}"#, "spec.snapLength: 0 would keep nothing; leave it out to keep whole packets."),
        (r#"{"snapLength":-1}"#, "spec.snapLength: \"-1\" is negative."),
        (r#"{"sample":0}"#, "spec.sample: 0 would keep nothing; 1 keeps every packet."),
        (r#"{"sample":"10G"}"#, "spec.sample: 10000000000 is too large."),
        (
            r#"{"limits":{"packets":0}}"#,
            "spec.limits.packets: 0 would keep nothing; leave it out for the default.",
        ),
        (r#"{"limits":{"bytes":"1Gb"}}"#, "spec.limits.bytes: \"1Gb\" ends in \"Gb\", which is no unit"),
        (
            r#"{"rateLimit":{"packetsPerSecond":0}}"#,
            "spec.rateLimit.packetsPerSecond: 0 would keep nothing; leave",
        ),
        (
            r#"{"rotation":{"files":0}}"#,
            "spec.rotation.files: 0 would keep nothing; leave it out to keep all files.",
        ),
        (
            r#"{"rotation":{"interval":"10ms"}}"#,
            "spec.rotation.interval: 10ms is too short; write at least 1s.",
        ),
        (
            r#"{"startTime":"tomorrow"}"#,
            "spec.startTime: \"tomorrow\" is not a time with a zone; write it like 2026-",
        ),
        (
            r#"{"retention":"1d"}"#,
            "spec.retention: \"1d\" has the unit \"d\"; use h, m, s or ms (a day is 24h).",
        ),
    ] {
        let refusal = refusal(json);
        assert_eq!(refusal.reason, reasons::INVALID_VALUE);
        assert!(refusal.message.starts_with(message), "{refusal}");
    }
    let unknown = with(r#"{"output":{"objectStore":"x"}}"#, &Caps::default()).unwrap_err();
    assert_eq!(unknown.reason, reasons::UNKNOWN_OUTPUT);
    assert!(
        unknown.message.contains("\"x\"") && unknown.message.contains("leave spec.output out"),
        "{unknown}"
    );
}

#[test]
fn filters_are_plain_text_of_a_bounded_length() {
    let most = "a".repeat(4096);
    assert_eq!(with(&format!(r#"{{"filter":"{most}"}}"#), &wide()).unwrap().0.filter, most);
    assert_eq!(refusal(&format!(r#"{{"filter":"{most}a"}}"#)).reason, reasons::INVALID_FILTER);
    assert_eq!(refusal(r#"{"filter":"tcp\u0000"}"#).reason, reasons::INVALID_FILTER);
}

#[test]
fn sizes_that_cannot_be_are_mended_and_said() {
    let (settings, notes) = with(r#"{"snapLength":"256k","rotation":{"fileBytes":"1Ki"}}"#, &wide()).unwrap();
    assert_eq!((settings.snap_length, settings.rotation.file_bytes), (65_556, 128 << 10));
    assert_eq!(
        notes,
        [
            "snap length 256k clipped to 65556, the largest packet there is",
            "file size 1Ki raised to 128Ki, the least there is"
        ]
    );
}

fn annotated(pairs: &[(&str, &str)]) -> Result<(Settings, Vec<String>), Refusal> {
    let annotations = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    from_annotations(&annotations, time(NOW), &Defaults::default(), &Caps::default())
}

#[test]
fn annotations_refine_a_label() {
    let (settings, notes) = annotated(&[
        (keys::FILTER, "udp port 53"),
        (keys::DURATION, "1h"),
        (keys::SNAP_LENGTH, "128"),
        (keys::MAX_PACKETS, "100"),
        (keys::MAX_BYTES, "10Mi"),
        (keys::INTERFACE, "veth0"),
        ("example.com/other", "x"),
    ])
    .unwrap();
    assert_eq!((settings.filter.as_str(), settings.snap_length), ("udp port 53", 128));
    assert_eq!(settings.limits, Limits { packets: Some(100), bytes: 10 << 20 });
    assert_eq!(notes, ["duration 1h clipped to 10m, the node's cap"]);
}

#[test]
fn annotations_are_named_when_they_are_wrong() {
    let bad = annotated(&[(keys::MAX_PACKETS, "many")]).unwrap_err();
    assert!(bad.message.starts_with("annotation podtap.dev/max-packets: \"many\" is not a number"), "{bad}");
    let near = annotated(&[("podtap.dev/max-packet", "1")]).unwrap_err();
    assert_eq!(
        near.message,
        "There is no annotation podtap.dev/max-packet: did you mean podtap.dev/max-packets?"
    );
    let far = annotated(&[("podtap.dev/rotation", "1")]).unwrap_err();
    assert_eq!(far.reason, reasons::UNKNOWN_FIELD);
    assert!(far.message.contains("anything more is a PacketCapture"), "{far}");
}
