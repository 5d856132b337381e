//! Interface statistics blocks (draft-ietf-opsawg-pcapng, section 4.6).

use super::encode::{Block, COMMENT};

const STATISTICS: u32 = 5;

/// What became of the packets of a file's interface, from the start of the capture on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// When capturing began, in ns of UTC since 1970.
    pub start: u64,
    /// When it ended, or the time of this reading, in ns of UTC since 1970.
    pub end: u64,
    /// `isb_ifrecv`: packets that came by.
    pub received: u64,
    /// `isb_filteraccept`: packets that the filter let through.
    pub accepted: u64,
    /// `isb_osdrop`: accepted packets for which the ring had no room.
    pub os_drop: u64,
    /// `isb_usrdeliv`: packets that were written.
    pub delivered: u64,
    /// Accepted packets that sampling left out.
    pub sampled_out: u64,
    /// Accepted packets over the rate limit.
    pub rate_drop: u64,
    /// Packets that storage refused: over the node's write cap, or no room on the disk.
    pub storage_drop: u64,
}

impl Statistics {
    /// No block is longer than this, in bytes.
    pub const MAX_LENGTH: usize = 256;

    /// The finished block; `now` is when these numbers were read, in ns of UTC since 1970.
    #[must_use]
    pub fn to_bytes(&self, now: u64) -> Vec<u8> {
        let mut block = Block::new(STATISTICS);
        block.u32(0);
        block.time(now);
        block.time_option(2, self.start);
        block.time_option(3, self.end);
        block.u64_option(4, self.received);
        block.u64_option(6, self.accepted);
        block.u64_option(7, self.os_drop);
        block.u64_option(8, self.delivered);
        block.text(
            COMMENT,
            &format!(
                "left out by sampling: {}; dropped by rate limit: {}; dropped by storage: {}",
                self.sampled_out, self.rate_drop, self.storage_drop
            ),
        );
        block.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_block_is_within_its_bound() {
        let most = u64::MAX;
        let longest = Statistics {
            start: most,
            end: most,
            received: most,
            accepted: most,
            os_drop: most,
            delivered: most,
            sampled_out: most,
            rate_drop: most,
            storage_drop: most,
        };
        let length = longest.to_bytes(most).len();
        assert!(length <= Statistics::MAX_LENGTH, "{length}");
    }
}
