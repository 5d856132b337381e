//! Texts that nobody writes in good faith.

use crate::difference::expressions;
use crate::difference::random::Random;

/// A text, mostly of 4 KiB and mostly refused.
pub(crate) fn text(random: &mut Random) -> String {
    match random.below(12) {
        0 => nested(random),
        1 => repeated(
            random,
            &["not ", "! ", "(", "((", ")", "tcp ", "tcp and ", "or ", "ip[", "-", "vlan and ", "mpls and "],
        ),
        2 => {
            format!("{} 1", repeated(random, &["ip[0]+", "ip[2:2]*", "1<<", "len-", "ip[ip[0]]/", "(ip[0]|"]))
        }
        3 => operators(random),
        4 => printable(random),
        5 => unprintable(random),
        6 => long_list(random),
        7 => chained(random),
        8 => words(random),
        _ => mutated(random),
    }
}

/// Bytes that are not even UTF-8, as no text of a Kubernetes object can be.
pub(crate) fn bytes(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; random.below(6000)];
    random.fill(&mut bytes);
    bytes
}

const LONGEST: usize = 4096;

fn nested(random: &mut Random) -> String {
    let depth = random.below(2040);
    let (open, close) =
        random.pick(&[("(", ")"), ("not (", ")"), ("ip[", "]"), ("(tcp or ", ")"), ("(tcp and ", ")")]);
    let depth = depth.min((LONGEST - 8) / (open.len() + close.len()));
    let mut text = open.repeat(depth);
    text.push_str(random.pick(&["tcp", "ip[0]=1", "0", ""]));
    text.push_str(&close.repeat(if random.once_in(4) { random.below(depth + 1) } else { depth }));
    text
}

fn repeated(random: &mut Random, parts: &[&str]) -> String {
    let part = random.pick(parts);
    let times = if random.once_in(2) { LONGEST / part.len() } else { random.below(LONGEST / part.len()) };
    part.repeat(times.saturating_sub(4)) + random.pick(&["", "tcp", "1", "0 = 1"])
}

fn operators(random: &mut Random) -> String {
    let parts = [
        "&&", "||", "!", "(", ")", "[", "]", "<", ">", "=", "+", "-", "*", "/", "%", "&", "|", "^", ":", "1",
        "ip",
    ];
    let mut text = String::new();
    while text.len() < LONGEST - 2 {
        text.push_str(random.pick(&parts));
    }
    text
}

fn printable(random: &mut Random) -> String {
    (0..random.below(LONGEST)).map(|_| char::from(0x20 + random.below(0x5f) as u8)).collect()
}

fn unprintable(random: &mut Random) -> String {
    (0..random.below(LONGEST)).filter_map(|_| char::from_u32(random.below(0x3000) as u32)).collect::<String>()
}

/// As long a list as fits, of things that share little.
fn long_list(random: &mut Random) -> String {
    let mut text = String::from("tcp");
    let word = random.pick(&[" or ", " or ", " and not "]);
    let kinds = 1 + random.below(6);
    loop {
        let part = match random.below(kinds) {
            0 => format!("host 10.0.{}.{}", random.next() as u8, random.next() as u8),
            1 => format!("port {}", random.next() as u16),
            2 => format!("ip[{}]={}", random.below(99), random.below(256)),
            3 => format!("ip6 net {:x}::/16", random.next() as u16),
            4 => format!("portrange {}-65535", random.next() as u16),
            _ => format!("len>{}", random.next() as u16),
        };
        if text.len() + word.len() + part.len() > LONGEST {
            return text;
        }
        text.push_str(word);
        text.push_str(&part);
    }
}

/// Arithmetic that the optimizer chews on.
fn chained(random: &mut Random) -> String {
    let mut text = String::from("(ip[0]+ip[1]");
    while text.len() < LONGEST - 20 {
        let sign = random.pick(&["+", "*", "-", "^", "|", "&"]);
        text.push_str(&format!("{sign}ip[{}]", random.below(40)));
    }
    text + ")=1"
}

fn words(random: &mut Random) -> String {
    let parts = [
        "src",
        "dst",
        "host",
        "net",
        "port",
        "portrange",
        "proto",
        "gateway",
        "inbound",
        "ifindex",
        "protochain",
        "wlan",
        "type",
        "mgt",
        "vpi",
        "oam",
        "on",
        "rnr",
        "reason",
        "action",
        "10.0.0.1",
        "::",
        "1",
        "0xffffffff",
        "99999999999999999999",
        "tcp",
        "ip6",
        "and",
        "or",
        "not",
        "example.org",
        "\\tcp",
        "llc",
        "mask",
        "link",
        "radio",
        "len",
        "broadcast",
        "1.2.3.4/33",
        "00:00",
    ];
    let mut text = String::new();
    for _ in 0..1 + random.below(400) {
        text.push_str(random.pick(&parts));
        text.push(' ');
    }
    text
}

/// A good expression with bytes turned, doubled, or gone.
fn mutated(random: &mut Random) -> String {
    let mut bytes = expressions::generate(random).into_bytes();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = 0x20 + random.below(0x5f) as u8,
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, 0x20 + random.below(0x5f) as u8),
            _ => {
                let tail = bytes[at..].to_vec();
                bytes.extend(tail);
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
