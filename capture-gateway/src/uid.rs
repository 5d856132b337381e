//! UIDs in 16 bytes: as text, a hundred thousand of them would be most of what the gateway keeps.

/// A UID as Kubernetes makes them, a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Uid(u64, u64);

impl Uid {
    /// Reads a UUID; none when the text is anything else.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let dashes = |(at, byte): (usize, u8)| (byte == b'-') == matches!(at, 8 | 13 | 18 | 23);
        if text.len() != 36 || !text.bytes().enumerate().all(dashes) {
            return None;
        }
        let number = text.bytes().filter(|byte| *byte != b'-').try_fold(0u128, |number, byte| {
            let digit = char::from(byte).to_digit(16)?;
            Some(number << 4 | u128::from(digit))
        })?;
        Some(Self((number >> 64) as u64, number as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_uuids_are_uids() {
        let uid = Uid::parse("01234567-89ab-cdef-0123-456789abcdef").unwrap();
        assert_eq!(uid, Uid(0x0123_4567_89ab_cdef, 0x0123_4567_89ab_cdef));
        assert_eq!(size_of::<Uid>(), 16);
        for bad in [
            "",
            "0123456789abcdef0123456789abcdef",
            "01234567-89ab-cdef-0123-456789abcdeg",
            "-1234567-89ab-cdef-0123-456789abcdef",
            "01234567-89ab-cdef-0123-456789abcde\u{e9}",
        ] {
            assert_eq!(Uid::parse(bad), None, "{bad}");
        }
    }
}
