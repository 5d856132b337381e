//! What this kernel takes: its verifier sees another program for each setting and filter, and older ones follow less.
//!
//! They need root and the built kernel programs, and also run on other kernels: `cargo xtask test --kernels`.

#![expect(clippy::unwrap_used, reason = "what these helpers cannot do fails the test that asks")]

use capture_common::{
    BLOCK_OVERHEAD, CLASSES, DIRECTION_BOTH, DIRECTION_FROM_POD, DIRECTION_TO_POD, MAX_CAPTURED, TapSettings,
};
use capture_daemon::datapath::{AttachMode, Loader};
use capture_filter::Filter;

const RING: u32 = 64 << 10;

const PLAIN: TapSettings = TapSettings {
    snap_length: MAX_CAPTURED,
    headers_only: 0,
    direction: DIRECTION_BOTH,
    sample: 1,
    filtered: 0,
    tick_ns: 0,
    packet_cost: 0,
    packet_burst: 0,
    byte_cost: 0,
    byte_burst: 0,
    wakeup_bytes: 16 << 10,
};

/// Loads a tap in each way that this kernel has.
fn load(loaders: &[Loader], filter: Option<&Filter>, settings: &TapSettings) {
    for loader in loaders {
        if let Err(error) = loader.load(filter, settings, RING, loader.mode()) {
            let expression = filter.map(Filter::expression);
            panic!("{:?}, `{expression:?}`, {settings:?}: {error}", loader.mode());
        }
    }
}

fn loaders() -> Vec<Loader> {
    let mut loaders = vec![Loader::new(None).unwrap()];
    if loaders[0].mode() == AttachMode::Tcx {
        loaders.push(Loader::new(Some(AttachMode::Socket)).unwrap());
    }
    loaders
}

/// Major and minor number of this kernel.
fn release() -> (u32, u32) {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn the_way_to_attach_is_found_by_trying() {
    assert_eq!(Loader::new(Some(AttachMode::Socket)).unwrap().mode(), AttachMode::Socket);
    let found = Loader::new(None).unwrap().mode();
    let forced = Loader::new(Some(AttachMode::Tcx)).map(|loader| loader.mode());
    // Added by Linux commit e420bed02507, "bpf: Add fd-based tcx multi-prog infra with link support", in 6.6.
    if release() >= (6, 6) {
        assert_eq!((found, forced.unwrap()), (AttachMode::Tcx, AttachMode::Tcx));
    } else {
        assert_eq!(found, AttachMode::Socket);
        let message = forced.unwrap_err().to_string();
        assert!(message.contains("tcx"), "{message}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn every_snap_length_is_accepted() {
    let loaders = loaders();
    let boundaries = CLASSES.iter().flat_map(|class| {
        let room = class - BLOCK_OVERHEAD;
        [room - 1, room, room + 1]
    });
    let small = [1, 2, 3, 4, 11, 12, 13, 14, 15, 16, 17, 18, 64, 96, 128, 1500, 9000];
    let lengths = boundaries.chain(small).chain([MAX_CAPTURED - 1, MAX_CAPTURED]);
    for snap_length in lengths.filter(|length| (1..=MAX_CAPTURED).contains(length)) {
        for headers_only in [0, 1] {
            load(&loaders, None, &TapSettings { snap_length, headers_only, ..PLAIN });
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn every_way_to_take_less_is_accepted() {
    let loaders = loaders();
    for direction in [DIRECTION_BOTH, DIRECTION_FROM_POD, DIRECTION_TO_POD] {
        for sample in [1, 2, 3, u32::MAX] {
            for (packet_cost, byte_cost) in [(0, 0), (1 << 40, 0), (0, 1 << 24), (1, u64::MAX)] {
                let (packet_burst, byte_burst) = (20_000_000, 20_000_000);
                let limits = TapSettings { packet_cost, packet_burst, byte_cost, byte_burst, ..PLAIN };
                load(&loaders, None, &TapSettings { direction, sample, ..limits });
            }
        }
    }
}

#[test]
#[ignore = "needs root: cargo xtask test --kernel"]
fn filters_of_every_kind_are_accepted() {
    let loaders = loaders();
    let any = |count: u32, one: &dyn Fn(u32) -> String| (0..count).map(one).collect::<Vec<_>>().join(" or ");
    let expressions = [
        String::new(),
        "tcp".into(),
        "host 10.0.0.1 and not port 22".into(),
        "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0 and not src net 192.168.0.0/16".into(),
        "tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420".into(),
        "ip[2:2] - ((ip[0] & 0xf) << 2) > 100".into(),
        "vlan 7 and udp portrange 100-200".into(),
        "vlan and vlan and ip6 host fd00::1".into(),
        "ip6 proto 6 and not ip6[40:2] % 7 = 3".into(),
        "ether[len - 4:4] & ether[0] * 3 = 9".into(),
        "len <= 100 or greater 9000".into(),
        any(60, &|number| format!("host 10.1.{number}.1")),
        any(80, &|number| format!("port {}", 100 + 2 * number)),
        any(150, &|number| format!("ip6 net fd00:{number:x}::/32")),
    ];
    for expression in &expressions {
        let classic = capture_filter::compile(expression).expect(expression);
        let filter = Filter::from_classic(expression, classic).expect(expression);
        for settings in [PLAIN, TapSettings { snap_length: 96, headers_only: 1, ..PLAIN }] {
            load(&loaders, Some(&filter), &settings);
        }
    }
}
