//! What can be said about an expression before anything compiles it: its size, its bytes, and words that podtap refuses.
//!
//! libpcap resolves an unknown word by asking a name service. The scan here follows its lexer closely enough to name such
//! a word; the compiler's child, which can open no socket, is what guarantees that nobody is asked.

use crate::FilterError;

/// Longest expression in bytes.
pub const MAX_TEXT: usize = 4096;

/// Words that libpcap's lexer knows (scanner.l of libpcap 1.10), apart from those that are refused.
const KEYWORDS: &[&str] = &[
    "dst",
    "src",
    "link",
    "ether",
    "ppp",
    "slip",
    "fddi",
    "tr",
    "wlan",
    "arp",
    "rarp",
    "ip",
    "sctp",
    "tcp",
    "udp",
    "icmp",
    "igmp",
    "igrp",
    "pim",
    "vrrp",
    "carp",
    "radio",
    "ip6",
    "icmp6",
    "ah",
    "esp",
    "atalk",
    "aarp",
    "decnet",
    "lat",
    "sca",
    "moprc",
    "mopdl",
    "iso",
    "esis",
    "es-is",
    "isis",
    "is-is",
    "l1",
    "l2",
    "iih",
    "lsp",
    "snp",
    "csnp",
    "psnp",
    "clnp",
    "stp",
    "ipx",
    "netbeui",
    "host",
    "net",
    "mask",
    "port",
    "portrange",
    "proto",
    "gateway",
    "type",
    "subtype",
    "direction",
    "dir",
    "address1",
    "address2",
    "address3",
    "address4",
    "addr1",
    "addr2",
    "addr3",
    "addr4",
    "ra",
    "ta",
    "less",
    "greater",
    "byte",
    "broadcast",
    "multicast",
    "and",
    "or",
    "not",
    "len",
    "length",
    "vlan",
    "mpls",
    "pppoed",
    "pppoes",
    "geneve",
    "lane",
    "llc",
    "metac",
    "bcc",
    "oam",
    "oamf4",
    "oamf4ec",
    "oamf4sc",
    "sc",
    "ilmic",
    "vpi",
    "vci",
    "connectmsg",
    "metaconnect",
    "on",
    "ifname",
    "rset",
    "ruleset",
    "rnum",
    "rulenum",
    "srnum",
    "subrulenum",
    "reason",
    "action",
    "fisu",
    "lssu",
    "lsu",
    "msu",
    "hfisu",
    "hlssu",
    "hmsu",
    "sio",
    "opc",
    "dpc",
    "sls",
    "hsio",
    "hopc",
    "hdpc",
    "hsls",
    "icmptype",
    "icmpcode",
    "icmp6type",
    "icmp6code",
    "tcpflags",
    "mac",
];

/// Beginnings of constants for byte accessors, such as `tcp-syn`.
const CONSTANT_PREFIXES: &[&str] = &["tcp-", "icmp-", "icmp6-"];

/// Refuses what needs no compiler to be refused.
///
/// # Errors
/// [`FilterError::TextTooLong`], [`FilterError::NotText`], [`FilterError::Name`], [`FilterError::Direction`] or
/// [`FilterError::Protochain`].
pub fn check(expression: &str) -> Result<(), FilterError> {
    if expression.len() > MAX_TEXT {
        return Err(FilterError::TextTooLong { bytes: expression.len() });
    }
    let is_text = |byte: u8| byte == b'\t' || byte == b'\n' || byte == b'\r' || (0x20..0x7f).contains(&byte);
    if let Some((offset, byte)) = expression.bytes().enumerate().find(|&(_, byte)| !is_text(byte)) {
        return Err(FilterError::NotText { byte, offset });
    }
    check_words(expression)
}

/// Whose name an unknown word is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// A host or network: only a name service knows it.
    Address,
    /// A service or protocol: in a file of this machine, if anywhere.
    Number,
}

fn check_words(expression: &str) -> Result<(), FilterError> {
    let mut kind = Kind::Address;
    for word in words(expression) {
        match word {
            "inbound" | "outbound" | "ifindex" => {
                return Err(FilterError::Direction { word: word.to_owned() });
            }
            "protochain" => return Err(FilterError::Protochain),
            "port" | "portrange" | "proto" => kind = Kind::Number,
            // These take one word of their own: a name of a frame type, never of a host.
            "type" | "subtype" | "dir" | "direction" | "reason" | "action" | "llc" => kind = Kind::Number,
            // These change nothing about what a bare word after them means.
            "and" | "or" | "not" => {}
            _ if KEYWORDS.contains(&word) => kind = Kind::Address,
            _ if is_literal(word) || CONSTANT_PREFIXES.iter().any(|prefix| word.starts_with(prefix)) => {}
            _ if kind == Kind::Number => {}
            _ => return Err(FilterError::Name { name: word.trim_start_matches('\\').to_owned() }),
        }
    }
    Ok(())
}

/// The words of an expression: runs of what libpcap takes into a name, number or address.
fn words(expression: &str) -> impl Iterator<Item = &str> {
    let in_word = |character: char| character.is_ascii_alphanumeric() || "-_.:\\".contains(character);
    expression
        .split(move |character| !in_word(character))
        // A minus that stands alone or in front is no part of a word.
        .map(|word| word.trim_matches('-'))
        .filter(|word| !word.is_empty())
}

/// Numbers, addresses and what else begins with a digit or holds a colon: libpcap reads these without asking anyone, or
/// says itself what is wrong with them.
fn is_literal(word: &str) -> bool {
    let hexadecimal =
        |part: &str| !part.is_empty() && part.len() <= 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    // MAC addresses are six pairs, three quads or twelve digits; anything with a colon can only be MAC or IPv6.
    word.contains(':')
        || word
            .split('-')
            .all(|part| part.starts_with(|first: char| first.is_ascii_digit()) && is_number(part))
        || (word.split(['.', '-']).count() == 6 && word.split(['.', '-']).all(hexadecimal))
        || (word.split('.').count() == 3
            && word
                .split('.')
                .all(|part| part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_hexdigit())))
        || (word.len() == 12 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Decimal, octal or `0x` number, or dotted decimal.
fn is_number(part: &str) -> bool {
    match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => part
            .split('.')
            .all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyday_expressions_pass() {
        for expression in [
            "",
            " \t\n",
            "tcp port 80",
            "port http or https",
            "host 10.0.0.1 and not net 10.1.0.0/16",
            "ether host 00:11:22:aa:bb:cc or ether src aa-bb-cc-dd-ee-ff or ether dst aabb.ccdd.eeff",
            "ip6 host fe80::1 or net 2001:db8::/32 or net fe80::/10 or host ::1",
            "ether[len - 1:1] = 0 and ether[len-5:4] != -1 and ip[ip[0]:2] > 0",
            "ip[0]&0xf!=5 && tcp[tcpflags]&(tcp-syn|tcp-ack)!=0",
            "ip[2:2]-((ip[0]&0xf)<<2)>100",
            "icmp[icmptype]=icmp-echo",
            "ip proto \\tcp or ether proto \\arp or ip proto ospf",
            "portrange 6000-6008",
            "tcp portrange ftp-data-ftp",
            "vlan 100 and (less 128 or greater 1000)",
            "len<=64",
            "net 10 or net 192.168",
        ] {
            assert_eq!(check(expression), Ok(()), "{expression}");
        }
    }

    #[test]
    fn names_are_refused_by_name() {
        for (expression, name) in [
            ("host www.example.org", "www.example.org"),
            ("example", "example"),
            ("port 80 and host db", "db"),
            ("port 80 and src db", "db"),
            ("net backbone", "backbone"),
            ("ether host router", "router"),
            ("gateway snup", "snup"),
            ("host \\tcp", "tcp"),
            ("tcp and (localhost)", "localhost"),
            ("TCP", "TCP"),
        ] {
            assert_eq!(check(expression), Err(FilterError::Name { name: name.to_owned() }), "{expression}");
        }
    }

    #[test]
    fn words_about_direction_are_refused_with_the_way_out() {
        for word in ["inbound", "outbound", "ifindex"] {
            let error = check(&format!("tcp and {word} 1")).expect_err(word);
            assert_eq!(error, FilterError::Direction { word: word.to_owned() });
            assert!(error.to_string().contains("`direction`"), "{error}");
        }
        assert_eq!(check("ip6 protochain 6"), Err(FilterError::Protochain));
    }

    #[test]
    fn too_long_and_not_text_are_refused() {
        assert_eq!(check(&"a".repeat(4097)), Err(FilterError::TextTooLong { bytes: 4097 }));
        assert_eq!(check(&" ".repeat(4096)), Ok(()));
        assert_eq!(check("tcp\0port 80"), Err(FilterError::NotText { byte: 0, offset: 3 }));
        assert_eq!(check("tcp\u{e9}"), Err(FilterError::NotText { byte: 0xc3, offset: 3 }));
        assert_eq!(check("tcp \u{7f}"), Err(FilterError::NotText { byte: 0x7f, offset: 4 }));
    }
}
