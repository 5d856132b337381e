//! The little that is read of blocks: where one ends, and whether it is whole.

use capture_common::{DATA_OFFSET, EPB_TYPE};

use super::FILLER_TYPE;

const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const LITTLE_ENDIAN: [u8; 4] = [0x4d, 0x3c, 0x2b, 0x1a];

#[inline]
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Total length in bytes of the block that `bytes` begins with, as its head says: at least 12 and a multiple of 4.
#[must_use]
#[inline]
pub fn block_length(bytes: &[u8]) -> Option<usize> {
    let total = word(bytes, 4)? as usize;
    (total >= 12 && total.is_multiple_of(4)).then_some(total)
}

/// Whether `block` is an Enhanced Packet Block.
#[must_use]
#[inline]
pub fn is_packet(block: &[u8]) -> bool {
    word(block, 0) == Some(EPB_TYPE)
}

/// Whether `bytes` begin with a section header in this agent's byte order.
#[must_use]
pub fn is_section_start(bytes: &[u8]) -> bool {
    bytes.starts_with(&SECTION) && bytes.get(8..12) == Some(&LITTLE_ENDIAN)
}

/// Length in bytes of the whole block that `bytes` begins with; nothing when it is damaged, goes on beyond `bytes`,
/// or is of a kind that this agent does not write.
#[must_use]
pub fn whole_block(bytes: &[u8]) -> Option<usize> {
    let total = block_length(bytes)?;
    let block = bytes.get(..total)?;
    if word(block, total - 4)? as usize != total {
        return None;
    }
    let known = match word(block, 0)? {
        EPB_TYPE => {
            let captured = word(block, 20)? as usize;
            word(block, 8)? == 0 && captured.checked_add(DATA_OFFSET as usize + 4)? <= total
        }
        1 | 4 | 5 | FILLER_TYPE => true,
        _ => is_section_start(block),
    };
    known.then_some(total)
}
