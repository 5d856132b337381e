//! How blocks become file contents.
//!
//! Whoever copies a file while it grows must get whole blocks. Two kinds of appending are seen by readers at once
//! or not at all, because the file's length moves once, after the bytes are there:
//!
//! - a buffered write that stays within one page of the file;
//! - an `O_DIRECT` write of whole pages (on ext4 and xfs), whatever its length.
//!
//! So little data is *packed* into pages, no block crossing from one into the next, and much data goes *direct*.
//! Both fill what must be filled with a block that readers skip. Such a block has at least 12 bytes, therefore a
//! file never ends 4 or 8 bytes before a page.
//!
//! The functions here are pure: the consumer knows from them how long a file becomes, and the writer does the same.

use crate::pcapng::{SMALLEST_FILLER, block_length};

/// The unit of both kinds of writing, in bytes. (A system with larger pages is content with it.)
pub const PAGE: usize = 4096;

/// More than this goes direct, in bytes: below, waiting for the disk would cost more than the copy.
pub const PACKED_MOST: usize = 16 << 10;

/// How a buffer of whole blocks is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the page cache, page by page.
    Packed,
    /// Past it, in whole pages.
    Direct,
}

/// Where a file will end, worked out as blocks come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    start: u64,
    /// Bytes of the blocks so far.
    length: usize,
    /// Where they end when packed.
    packed: u64,
    /// One of them fits into no page.
    split: bool,
    /// Whether the file system has the direct way.
    has_direct: bool,
}

impl Course {
    /// No blocks yet, in a file that ends at `start`.
    #[must_use]
    pub const fn new(start: u64, has_direct: bool) -> Self {
        Self { start, length: 0, packed: start, split: false, has_direct }
    }

    /// One more block, of `length` bytes.
    #[must_use]
    #[inline]
    pub const fn with(mut self, length: usize) -> Self {
        self.length += length;
        if self.has_direct && self.length > PACKED_MOST {
            return self;
        }
        if !leaves_filler(PAGE - self.packed as usize % PAGE, length) {
            self.packed += gap(self.packed) as u64;
            if !leaves_filler(PAGE, length) {
                self.packed += tail(length) as u64;
                self.split = true;
            }
        }
        self.packed += length as u64;
        self
    }

    /// How the blocks are written.
    #[must_use]
    pub const fn way(&self) -> Way {
        if self.has_direct && (self.split || self.length > PACKED_MOST) { Way::Direct } else { Way::Packed }
    }

    /// Where the file ends with them.
    #[must_use]
    #[inline]
    pub const fn end(&self) -> u64 {
        match self.way() {
            Way::Direct => self.start + (gap(self.start) + self.length + tail(self.length)) as u64,
            Way::Packed => self.packed,
        }
    }
}

/// Whether `length` bytes fit into `room` and leave nothing, or enough for a filler.
const fn leaves_filler(room: usize, length: usize) -> bool {
    length == room || length + SMALLEST_FILLER <= room
}

/// Bytes from `position` to the next page.
#[must_use]
pub const fn gap(position: u64) -> usize {
    (PAGE - position as usize % PAGE) % PAGE
}

/// Filler after `length` bytes that begin a page, so that pages are whole.
#[must_use]
pub const fn tail(length: usize) -> usize {
    match gap(length as u64) {
        short @ 1..SMALLEST_FILLER => short + PAGE,
        enough => enough,
    }
}

/// One buffered write of the packed way: filler, then blocks, then filler; any of them may be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Bytes of filler that end the page before: a write of its own.
    pub before: usize,
    /// Whole blocks.
    pub blocks: &'a [u8],
    /// Bytes of filler behind them, in the same write.
    pub after: usize,
}

/// Packs `blocks` into pages from `position` on and returns where the file ends. A block that no page holds becomes
/// a piece of its own, from one page's start to another's.
pub fn pack<'a>(mut position: u64, blocks: &'a [u8], mut write: impl FnMut(Piece<'a>)) -> u64 {
    let mut rest = blocks;
    while !rest.is_empty() {
        let room = PAGE - position as usize % PAGE;
        let fitting = fitting(rest, room);
        let next = block_length(&rest[fitting..]).unwrap_or(rest.len() - fitting).min(rest.len() - fitting);
        let piece = if fitting > 0 {
            // What does not fit behind it ends this page now, in the same write.
            let after = if next > 0 { room - fitting } else { 0 };
            Piece { before: 0, blocks: &rest[..fitting], after }
        } else if room < PAGE {
            Piece { before: room, blocks: &[], after: 0 }
        } else {
            Piece { before: 0, blocks: &rest[..next], after: tail(next) }
        };
        write(piece);
        rest = &rest[piece.blocks.len()..];
        position += (piece.before + piece.blocks.len() + piece.after) as u64;
    }
    position
}

/// Bytes of the blocks at the start of `blocks` that fit into `room` and leave room for a filler, or nothing.
fn fitting(blocks: &[u8], room: usize) -> usize {
    let (mut end, mut good) = (0, 0);
    while let Some(length) = blocks.get(end..).and_then(block_length) {
        end += length;
        if end > room || end > blocks.len() {
            break;
        }
        if leaves_filler(room, end) {
            good = end;
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcapng::filler;

    fn blocks(lengths: &[usize]) -> Vec<u8> {
        lengths.iter().flat_map(|&length| filler(length)).collect()
    }

    fn pieces(position: u64, data: &[u8]) -> (Vec<(usize, usize, usize)>, u64) {
        let mut pieces = Vec::new();
        let end = pack(position, data, |piece| pieces.push((piece.before, piece.blocks.len(), piece.after)));
        (pieces, end)
    }

    fn plan(position: u64, data: &[u8], direct: bool) -> (Way, u64) {
        let mut course = Course::new(position, direct);
        let mut rest = data;
        while let Some(length) = block_length(rest) {
            course = course.with(length);
            rest = &rest[length..];
        }
        (course.way(), course.end())
    }

    #[test]
    fn small_data_stays_in_its_page() {
        assert_eq!(pieces(100, &blocks(&[108, 108])), (vec![(0, 216, 0)], 316));
    }

    #[test]
    fn a_block_that_does_not_fit_begins_the_next_page() {
        assert_eq!(pieces(4000, &blocks(&[84])), (vec![(0, 84, 0)], 4084));
        assert_eq!(pieces(4000, &blocks(&[96])), (vec![(0, 96, 0)], 4096));
        // 8 bytes would be left: too few for a filler later.
        assert_eq!(pieces(4000, &blocks(&[88])), (vec![(96, 0, 0), (0, 88, 0)], 4184));
        assert_eq!(
            pieces(0, &blocks(&[1444; 5])),
            (vec![(0, 2888, 1208), (0, 2888, 1208), (0, 1444, 0)], 9636)
        );
    }

    #[test]
    fn a_block_larger_than_a_page_goes_direct_or_gets_pages_of_its_own() {
        let data = blocks(&[108, 5000, 108]);
        assert_eq!(plan(200, &data, true), (Way::Direct, 4096 + 8192));
        assert_eq!(
            pieces(200, &data),
            (vec![(0, 108, 3788), (0, 5000, 3192), (0, 108, 0)], 4096 + 8192 + 108)
        );
        // Only 4 bytes short of two pages: three.
        assert_eq!(pieces(0, &blocks(&[8188])), (vec![(0, 8188, 4100)], 12288));
    }

    #[test]
    fn positions_never_leave_less_than_a_filler_before_a_page() {
        let mut seed = 1_u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        let mut position = 0;
        for _ in 0..20_000 {
            let lengths: Vec<usize> = (0..=random(30)).map(|_| 12 + 4 * random(400) as usize).collect();
            let data = blocks(&lengths);
            let (way, end) = plan(position, &data, random(2) == 0);
            assert!(!(1..SMALLEST_FILLER).contains(&gap(end)), "{position} {end}");
            assert!(end >= position + data.len() as u64);
            if way == Way::Packed {
                let mut at = position;
                let mut written = Vec::new();
                assert_eq!(
                    pack(position, &data, |piece| {
                        assert!(piece.before == 0 || gap(at) == piece.before);
                        at += piece.before as u64;
                        let length = (piece.blocks.len() + piece.after) as u64;
                        assert!(length == 0 || at / 4096 == (at + length - 1) / 4096, "crosses a page");
                        at += length;
                        written.extend_from_slice(piece.blocks);
                    }),
                    end
                );
                assert_eq!((at, written), (end, data));
            } else {
                assert_eq!(end % 4096, 0);
            }
            position = end;
        }
    }
}
