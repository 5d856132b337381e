//! Blocks that readers skip, which bring a file to an aligned length.

/// A block type for local use: the highest bit is set (draft-ietf-opsawg-pcapng, section 11.1).
pub const FILLER_TYPE: u32 = 0xf464_6f70;

/// A block has two words before and one after its body.
pub const SMALLEST_FILLER: usize = 12;

/// Makes `space` one filler block. Its length must be a multiple of 4 and at least [`SMALLEST_FILLER`].
pub fn fill(space: &mut [u8]) {
    debug_assert!(space.len() >= SMALLEST_FILLER && space.len().is_multiple_of(4));
    let total = (space.len() as u32).to_le_bytes();
    let (head, rest) = space.split_at_mut(8);
    let (body, tail) = rest.split_at_mut(rest.len() - 4);
    head[..4].copy_from_slice(&FILLER_TYPE.to_le_bytes());
    head[4..].copy_from_slice(&total);
    body.fill(0);
    tail.copy_from_slice(&total);
}

/// A filler block of `length` bytes: a multiple of 4, at least [`SMALLEST_FILLER`].
#[must_use]
pub fn filler(length: usize) -> Vec<u8> {
    let mut block = vec![0; length];
    fill(&mut block);
    block
}
