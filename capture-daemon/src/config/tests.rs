use capture_api::{GoDuration, MAX_SNAP_LENGTH, Rotation};

use super::*;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("agent.yaml"), text)
}

fn error(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("# nothing\n").unwrap(), Config::default());
    assert_eq!(parse("log:\ncaps: {}\nquota:\n").unwrap(), Config::default());
}

#[test]
fn the_defaults_are_those_that_protect() {
    let Config { defaults, caps, memory_budget, max_disk_percent, .. } = Config::default();
    for (duration, bytes, retention) in
        [(defaults.duration, defaults.bytes, defaults.retention), (caps.duration, caps.bytes, caps.retention)]
    {
        assert_eq!(
            (duration.to_string(), bytes, retention.to_string()),
            ("10m".into(), 1 << 30, "24h".into())
        );
    }
    assert_eq!((caps.captures, memory_budget, max_disk_percent), (4, 256 << 20, 75));
}

#[test]
fn every_key_is_read() {
    let config = parse(
        "dataDir: /data\nnodeName: node7\nattachMode: Socket\nmemoryBudget: 512Mi\nwriters: 3\n\
         writeBandwidth: 200Mi\nquota: 50Gi\nquotaPerNamespace: 5Gi\nmaxDiskPercent: 60\nmaxManifests: 10\n\
         apiServerPatience: 90s\n\
         cniCacheDirs: [/a, /b]\nprovisionalBytes: 8Mi\n\
         httpAddress: '[::1]:9471'\nhealthAddress: 127.0.0.1:9470\n\
         defaults: {duration: 5m, bytes: 10Mi, packets: 1k, snapLength: 128, retention: 1h, \
         rotation: {fileBytes: 1Mi, files: 3, interval: 1h}}\n\
         caps: {duration: 2h, bytes: 2Gi, packets: 1M, snapLength: 1500, packetsPerSecond: 5, bytesPerSecond: 6, \
         capturesPerNamespace: 250, capturesPerHour: 9, headersOnly: true, retention: 48h}\n\
         log: {format: Json, level: debug}\n",
    )
    .unwrap();
    let expected = Config {
        data_dir: "/data".into(),
        node_name: "node7".into(),
        attach_mode: AttachModeChoice::Socket,
        memory_budget: 512 << 20,
        writers: 3,
        write_bandwidth: Some(200 << 20),
        quota: Some(50 << 30),
        quota_per_namespace: Some(5 << 30),
        max_disk_percent: 60,
        cni_cache_dirs: vec!["/a".into(), "/b".into()],
        provisional_bytes: 8 << 20,
        max_manifests: 10,
        api_server_patience: GoDuration::from_secs(90),
        http_address: Some("[::1]:9471".parse().unwrap()),
        health_address: Some("127.0.0.1:9470".parse().unwrap()),
        defaults: Defaults {
            duration: GoDuration::from_secs(300),
            bytes: 10 << 20,
            packets: Some(1000),
            snap_length: 128,
            retention: GoDuration::from_secs(3600),
            rotation: Rotation {
                file_bytes: 1 << 20,
                files: Some(3),
                interval: Some(GoDuration::from_secs(3600)),
            },
        },
        caps: Caps {
            duration: GoDuration::from_secs(7200),
            bytes: 2 << 30,
            packets: Some(1_000_000),
            snap_length: 1500,
            packets_per_second: Some(5),
            bytes_per_second: Some(6),
            captures: 250,
            captures_per_hour: Some(9),
            headers_only: true,
            retention: GoDuration::from_secs(48 * 3600),
            outputs: Vec::new(),
            whose: "node",
        },
        log_format: LogFormat::Json,
        log_level: LogLevel::Debug,
    };
    assert_eq!(config, expected);
    let options = config.requests();
    assert_eq!((options.defaults, options.caps, options.max_files), (config.defaults, config.caps, 10));
}

#[test]
fn unknown_keys_are_named_with_line_and_the_nearest_known_one() {
    assert_eq!(
        error("# x\ndatadir: /data\n"),
        "agent.yaml:2: there is no key datadir: did you mean dataDir?"
    );
    assert_eq!(
        error("dataDir: /data\ncaps:\n  bytes: 1Gi\n  durration: 1h\n"),
        "agent.yaml:4: there is no key caps.durration: did you mean caps.duration?"
    );
    assert_eq!(
        error("log: {colour: red}"),
        "agent.yaml:1: there is no key log.colour; known are format, level"
    );
}

#[test]
fn bad_values_are_named_with_line_and_what_to_write() {
    for (text, message) in [
        ("\nmemoryBudget: 1Mb", "agent.yaml:2: memoryBudget: \"1Mb\" ends in \"Mb\", which is no unit"),
        ("memoryBudget: 1Mi", "agent.yaml:1: memoryBudget: 1Mi is too little; write at least 16777216."),
        ("maxDiskPercent: 101", "agent.yaml:1: maxDiskPercent: 101 is too much; write at most 100."),
        ("attachMode: tcx", "attachMode: \"tcx\" is none of Auto, Tcx, Socket: did you mean Tcx?"),
        ("log:\n  level: verbose", "agent.yaml:2: log.level: \"verbose\" is none of error, warn"),
        ("caps:\n  duration: 1d", "agent.yaml:2: caps.duration: \"1d\" has the unit \"d\""),
        ("caps: {capturesPerNamespace: 0}", "caps.capturesPerNamespace: 0 would allow no capture."),
        ("caps: {capturesPerHour: 0}", "caps.capturesPerHour: 0 would allow no capture."),
        ("caps: {snapLength: 0}", "caps.snapLength: 0 would allow no capture."),
        ("caps: {headersOnly: yes please}", "caps.headersOnly must be true or false, not \"yes please\""),
        ("defaults: {duration: 1h}", "defaults.duration: 1h is more than caps.duration allows (10m); raise"),
        ("defaults: {rotation: {fileBytes: 1Ki}}", "defaults.rotation.fileBytes: 1Ki is too little"),
        (
            "httpAddress: localhost",
            "httpAddress: \"localhost\" is no address with a port, such as 127.0.0.1:9471.",
        ),
        ("quotaPerNamespace: 0", "quotaPerNamespace: 0 is too little; write at least 1."),
        ("dataDir: [1]", "dataDir must be a text"),
        ("caps: 5", "caps must be an object with fields, not 5"),
    ] {
        let error = error(text);
        assert!(error.contains(message), "{error}");
    }
    assert!(error("dataDir: {").starts_with("agent.yaml: "));
    assert!(error("writers: 1\nwriters: 2").contains("writers"));
}

#[test]
fn the_command_line_wins() {
    let overrides = Overrides {
        data_dir: Some("/other".into()),
        node_name: Some("n1".into()),
        attach_mode: Some(AttachModeChoice::Tcx),
        log_format: Some(LogFormat::Human),
        log_level: Some(LogLevel::Warn),
    };
    let config = Config::load(None, overrides).unwrap();
    assert_eq!(
        (config.data_dir, config.node_name.as_str(), config.attach_mode),
        ("/other".into(), "n1", AttachModeChoice::Tcx)
    );
    assert_eq!((config.log_format, config.log_level), (LogFormat::Human, LogLevel::Warn));
    for name in ["", "a b", "-a", "a/b", "../x"] {
        let overrides = Overrides { node_name: Some(name.into()), ..Overrides::default() };
        assert!(matches!(Config::load(None, overrides), Err(ConfigError::Value(_))), "{name:?}");
    }
    let missing = Config::load(Some(Path::new("/nonexistent.yaml")), Overrides::default());
    assert!(missing.unwrap_err().to_string().starts_with("/nonexistent.yaml: "));
}

#[test]
fn the_shipped_example_shows_every_key_with_its_default() {
    let example = include_str!("../../../docs/agent.example.yaml");
    assert_eq!(parse(example).unwrap(), Config::default());
    // Keys without a default are shown commented out.
    let lines: Vec<&str> = example.lines().map(|line| line.trim_start_matches([' ', '#'])).collect();
    let mut schema = schemars::generate::SchemaSettings::openapi3();
    schema.inline_subschemas = true;
    let schema = schema.into_generator().into_root_schema_for::<ConfigFile>();
    let mut keys = Vec::new();
    collect(schema.as_value(), &mut keys);
    assert!(keys.len() > 25, "{keys:?}");
    for key in keys {
        assert!(lines.iter().any(|line| line.starts_with(&format!("{key}:"))), "{key} is not shown");
    }
}

fn collect(schema: &serde_json::Value, keys: &mut Vec<String>) {
    for (key, schema) in schema.get("properties").and_then(|value| value.as_object()).into_iter().flatten() {
        keys.push(key.clone());
        collect(schema, keys);
    }
}

#[test]
fn the_largest_snap_length_is_the_kernels() {
    assert_eq!(MAX_SNAP_LENGTH, capture_common::MAX_CAPTURED);
}
