//! Names: of records, and what Kubernetes accepts as one.

use sha2::{Digest, Sha256};

/// The most characters of a record's name, its hash included.
pub const MAX_RECORD_NAME: usize = 200;
/// Characters of a record name's hash.
const HASH: usize = 5;
/// No vowels and nothing that looks like another: no words, no misreading (as Kubernetes does for its suffixes).
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// The name of one run's record: `<pod>-<hash>` for a label, `<capture>-<pod>-<hash>` for a PacketCapture. `run`
/// counts the runs of the same request on the same pod from 0. Always a DNS subdomain when the parts are, and at
/// most [`MAX_RECORD_NAME`] characters; the hash is always whole.
#[must_use]
pub fn record(capture: Option<&str>, pod: &str, request_uid: &str, pod_uid: &str, run: u32) -> String {
    let mut name = match capture {
        Some(capture) => format!("{capture}-{pod}"),
        None => pod.to_owned(),
    };
    let mut room = MAX_RECORD_NAME - HASH - 1;
    while !name.is_char_boundary(room.min(name.len())) {
        room -= 1;
    }
    name.truncate(room);
    // A label of a DNS name ends in a letter or digit, and the next one starts after the cut.
    name.truncate(name.trim_end_matches(['-', '.']).len());
    name.push('-');
    name.push_str(&hash(request_uid, pod_uid, run));
    name
}

fn hash(request_uid: &str, pod_uid: &str, run: u32) -> String {
    let mut digest = Sha256::new();
    for part in [request_uid, pod_uid] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.update(run.to_be_bytes());
    let mut number =
        digest.finalize().iter().take(8).fold(0u64, |number, &byte| number << 8 | u64::from(byte));
    let base = ALPHABET.len() as u64;
    (0..HASH)
        .map(|_| {
            let letter = ALPHABET[(number % base) as usize];
            number /= base;
            char::from(letter)
        })
        .collect()
}

/// A UID for an object that has none: the same for the same kind, namespace and name, in a UUID's shape.
#[must_use]
pub fn derived_uid(kind: &str, namespace: &str, name: &str) -> String {
    let mut digest = Sha256::new();
    for part in [kind, namespace, name] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    // RFC 9562: version 8 (custom), variant 10.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Whether this can be a pod's or a capture's name: a DNS subdomain (RFC 1123), at most 253 characters.
#[must_use]
pub fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_part)
}

/// Whether this can be a namespace's name: a DNS label (RFC 1123), at most 63 characters.
#[must_use]
pub fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && is_part(name)
}

fn is_part(part: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    alphanumeric(part.as_bytes().first())
        && alphanumeric(part.as_bytes().last())
        && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Whether this can be a label's value: at most 63 characters, letters, digits, `-`, `_`, `.` inside.
#[must_use]
pub fn is_label_value(value: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    value.len() <= 63
        && edge(value.as_bytes().first())
        && edge(value.as_bytes().last())
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_named_for_its_request_and_pod() {
        let label = record(None, "web-0", "uid", "uid", 0);
        assert!(label.starts_with("web-0-") && label.len() == "web-0-".len() + 5, "{label}");
        let capture = record(Some("slow"), "web-0", "a", "b", 0);
        assert!(capture.starts_with("slow-web-0-"), "{capture}");
        assert!(is_subdomain(&label) && is_subdomain(&capture));
    }

    #[test]
    fn the_hash_depends_on_request_pod_and_run_and_on_nothing_else() {
        let name = |request, pod, run| record(Some("c"), "p", request, pod, run);
        assert_eq!(name("a", "b", 0), name("a", "b", 0));
        let all =
            [name("a", "b", 0), name("a", "b", 1), name("a", "c", 0), name("b", "b", 0), name("ab", "", 0)];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{all:?}");
        }
        assert!(one_of_alphabet(&all[0]));
        // Files of earlier versions keep their names.
        assert_eq!(name("a", "b", 0), "c-p-kvfpm");
    }

    fn one_of_alphabet(name: &str) -> bool {
        name.rsplit('-').next().unwrap().bytes().all(|b| ALPHABET.contains(&b))
    }

    #[test]
    fn long_names_are_cut_and_keep_their_hash() {
        let long = "a".repeat(253);
        let name = record(Some(&long), &long, "a", "b", 0);
        assert_eq!(name.len(), 200);
        assert!(is_subdomain(&name) && name.ends_with(&record(None, "x", "a", "b", 0)[1..]), "{name}");
        let dotted = format!("{}.-.{}", "a".repeat(192), "b".repeat(50));
        let name = record(None, &dotted, "a", "b", 0);
        assert!(is_subdomain(&name), "{name}");
        let wide = "\u{e9}".repeat(150);
        assert!(record(None, &wide, "a", "b", 0).len() <= 200);
    }

    #[test]
    fn names_that_could_leave_a_directory_are_no_names() {
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a..b",
            "-a",
            "a-",
            "A",
            "a_b",
            "a\0b",
            "a b",
            ".a",
            &"a".repeat(254),
        ] {
            assert!(!is_subdomain(bad), "{bad:?}");
        }
        assert!(is_subdomain("web-0.prod") && is_subdomain(&"a".repeat(253)) && is_dns_label("team-a"));
        assert!(!is_dns_label("a.b") && !is_dns_label(&"a".repeat(64)));
        assert!(
            is_label_value("")
                && is_label_value("Web_0.x")
                && !is_label_value("-a")
                && !is_label_value(&"a".repeat(64))
        );
    }

    #[test]
    fn a_derived_uid_is_stable_and_looks_like_one() {
        let uid = derived_uid("Pod", "default", "web");
        assert_eq!(uid, derived_uid("Pod", "default", "web"));
        assert_ne!(uid, derived_uid("Pod", "defaultw", "eb"));
        assert_eq!((uid.len(), uid.matches('-').count(), &uid[14..15]), (36, 4, "8"));
    }
}
