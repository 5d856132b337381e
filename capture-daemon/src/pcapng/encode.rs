//! How blocks and their options are put together (draft-ietf-opsawg-pcapng, sections 3.1 and 3.5).

/// The most bytes that one option's value can have.
pub const MAX_OPTION: usize = u16::MAX as usize;

/// `opt_comment`, allowed in every block.
pub(super) const COMMENT: u16 = 1;
const END_OF_OPTIONS: u16 = 0;

/// One block in the making; [`Block::end`] writes the lengths.
pub(super) struct Block {
    bytes: Vec<u8>,
}

impl Block {
    pub(super) fn new(block_type: u32) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&block_type.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes }
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    /// A time in units of the interface's resolution: the high word comes first whatever the byte order.
    pub(super) fn time(&mut self, nanoseconds: u64) {
        self.u32((nanoseconds >> 32) as u32);
        self.u32(nanoseconds as u32);
    }

    /// Code, length, value and padding: the form of an option and of a name record. `value` is at most
    /// [`MAX_OPTION`] bytes: callers cut before.
    pub(super) fn option(&mut self, code: u16, value: &[u8]) {
        let value = &value[..value.len().min(MAX_OPTION)];
        self.u16(code);
        self.u16(value.len() as u16);
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// A text option; an empty text is left out.
    pub(super) fn text(&mut self, code: u16, text: &str) {
        let text = plain(text, MAX_OPTION);
        if !text.is_empty() {
            self.option(code, text.as_bytes());
        }
    }

    pub(super) fn time_option(&mut self, code: u16, nanoseconds: u64) {
        self.u16(code);
        self.u16(8);
        self.time(nanoseconds);
    }

    pub(super) fn u64_option(&mut self, code: u16, value: u64) {
        self.u16(code);
        self.u16(8);
        self.u64(value);
    }

    /// Ends the options (or name records), and the block.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.u32(u32::from(END_OF_OPTIONS));
        let total = (self.bytes.len() + 4) as u32;
        self.bytes[4..8].copy_from_slice(&total.to_le_bytes());
        self.u32(total);
        self.bytes
    }
}

/// `text` without the NULs at which some readers end a string, cut to `most` bytes between two characters.
pub(super) fn plain(text: &str, most: usize) -> String {
    let mut text = text.replace('\0', "");
    text.truncate(text.floor_char_boundary(most));
    text
}
