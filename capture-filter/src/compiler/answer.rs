//! What the child tells its parent: one byte that says what, a length, and that many bytes.
//!
//! The parent believes nothing: lengths are bounded before anything is kept, words are cleaned, programs are checked.

use crate::classic::{MAX_INSTRUCTIONS, encode};
use crate::{ClassicInsn, ClassicProgram, FilterError};

const PROGRAM: u8 = 0;
const SYNTAX: u8 = 1;
const NAME: u8 = 2;
const TOO_LONG: u8 = 3;
const OTHER: u8 = 4;
const UNAVAILABLE: u8 = 5;

const HEADER_BYTES: usize = 5;
/// Longest message that is kept of what a child says.
const MESSAGE_BYTES: usize = 512;
/// Longest answer in bytes.
pub(crate) const MAX_ANSWER: usize = HEADER_BYTES + MAX_INSTRUCTIONS * 8;

/// The child's side.
pub(crate) fn write(answer: Result<Vec<ClassicInsn>, FilterError>) -> Vec<u8> {
    let (kind, payload) = match answer {
        Ok(instructions) if instructions.len() <= MAX_INSTRUCTIONS => (PROGRAM, encode(&instructions)),
        Ok(instructions) => (TOO_LONG, instructions.len().to_string().into_bytes()),
        Err(FilterError::Syntax { message }) => (SYNTAX, message.into_bytes()),
        Err(FilterError::Name { name }) => (NAME, name.into_bytes()),
        Err(FilterError::Unavailable { reason }) => (UNAVAILABLE, reason.into_bytes()),
        Err(other) => (OTHER, other.to_string().into_bytes()),
    };
    let kept = match kind {
        PROGRAM => &payload[..],
        _ => &payload[..payload.len().min(MESSAGE_BYTES)],
    };
    let mut answer = vec![kind];
    // At most MAX_ANSWER.
    answer.extend_from_slice(&(kept.len() as u32).to_le_bytes());
    answer.extend_from_slice(kept);
    answer
}

/// The parent's side; `None` when the answer is not whole.
pub(crate) fn read(answer: &[u8]) -> Option<Result<ClassicProgram, FilterError>> {
    let (&[kind, l0, l1, l2, l3], payload) = answer.split_first_chunk::<HEADER_BYTES>()?;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if payload.len() != length as usize {
        return None;
    }
    Some(match kind {
        PROGRAM => ClassicProgram::from_bytes(payload),
        SYNTAX => Err(FilterError::Syntax { message: message(payload) }),
        NAME => Err(FilterError::Name { name: message(payload) }),
        TOO_LONG => {
            let instructions = message(payload).parse().unwrap_or(MAX_INSTRUCTIONS + 1);
            Err(FilterError::ProgramTooLong { instructions, limit: MAX_INSTRUCTIONS })
        }
        OTHER => Err(FilterError::Syntax { message: message(payload) }),
        UNAVAILABLE => Err(FilterError::Unavailable { reason: message(payload) }),
        _ => return None,
    })
}

/// Words of the child that may go into a status, a log or a terminal.
fn message(payload: &[u8]) -> String {
    let printable = |&byte: &u8| if (0x20..0x7f).contains(&byte) { char::from(byte) } else { '?' };
    payload.iter().take(MESSAGE_BYTES).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_arrive_as_they_were_given() {
        let program = crate::compile("tcp port 80").unwrap();
        assert_eq!(read(&write(Ok(program.instructions().to_vec()))), Some(Ok(program)));
        for error in [
            FilterError::Syntax { message: "syntax error".to_owned() },
            FilterError::Name { name: "db".to_owned() },
            FilterError::Unavailable { reason: "no".to_owned() },
        ] {
            assert_eq!(read(&write(Err(error.clone()))), Some(Err(error)));
        }
        let long = vec![ClassicInsn { code: 6, jt: 0, jf: 0, k: 0 }; 5000];
        let refused = FilterError::ProgramTooLong { instructions: 5000, limit: 4096 };
        assert_eq!(read(&write(Ok(long))), Some(Err(refused)));
    }

    #[test]
    fn broken_answers_are_none() {
        let whole = write(Err(FilterError::Syntax { message: "syntax error".to_owned() }));
        for cut in 0..whole.len() {
            assert_eq!(read(&whole[..cut]), None, "{cut}");
        }
        let mut longer = whole.clone();
        longer.push(b'!');
        assert_eq!(read(&longer), None);
        assert_eq!(read(&[9, 0, 0, 0, 0]), None);
        assert_eq!(read(&[PROGRAM, 0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn words_of_a_hostile_child_are_cleaned() {
        let mut answer = vec![SYNTAX];
        answer.extend_from_slice(&1000u32.to_le_bytes());
        answer.extend_from_slice(&b"\x1b[2J".repeat(250));
        match read(&answer) {
            Some(Err(FilterError::Syntax { message })) => {
                assert_eq!(message.len(), 512);
                assert!(message.starts_with("?[2J?[2J"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}
