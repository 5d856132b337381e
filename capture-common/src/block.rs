//! The ring record: one finished pcapng Enhanced Packet Block (draft-ietf-opsawg-pcapng, section 4.3).
//!
//! ```text
//!  0 type 6        4 total length    8 interface 0    12 timestamp high   16 timestamp low
//! 20 captured     24 original       28 packet data, padded with zeros to 4 bytes
//!  + option 2 (flags), length 4      + flags          + end of options 0  + total length
//! ```

/// Block type of an Enhanced Packet Block.
pub const EPB_TYPE: u32 = 6;
/// Where the packet's bytes start in the block.
pub const DATA_OFFSET: u32 = 28;
/// Bytes of a block that are not packet data: the head, the flags option, the end of options, the trailing length.
pub const BLOCK_OVERHEAD: u32 = DATA_OFFSET + 8 + 4 + 4;
/// `epb_flags` direction of what the pod receives.
pub const FLAG_INBOUND: u32 = 1;
/// `epb_flags` direction of what the pod sends.
pub const FLAG_OUTBOUND: u32 = 2;

/// The most bytes of one packet that reach a file: the largest IP packet (65,535), its Ethernet header (14) and a
/// VLAN tag (4), rounded up to the block's padding. A larger (BIG TCP) packet is cut here and counted as truncated.
pub const MAX_CAPTURED: u32 = padded(65_535 + 14 + 4);

/// Sizes of the blocks that ring records are made for, in bytes. The verifier wants a constant for each reservation.
pub const CLASSES: [u32; 8] = [128, 256, 512, 1024, 1600, 4096, 16_384, LARGEST_CLASS];
/// The last of [`CLASSES`]: the largest packet with its block.
pub const LARGEST_CLASS: u32 = MAX_CAPTURED + BLOCK_OVERHEAD;

/// Bytes of a record beyond its class, which the verifier wants: after rounding up to 4 it takes a length for up to 3
/// bytes longer than it can be, and a VLAN tag for up to 7 bytes. A block may reach into them with its tag.
pub const RECORD_SLACK: u32 = 3 + 7;

/// `bytes` rounded up to pcapng's padding of 4.
#[must_use]
pub const fn padded(bytes: u32) -> u32 {
    (bytes + 3) & !3
}

const _: () = assert!(BLOCK_OVERHEAD == 44 && LARGEST_CLASS.is_multiple_of(4));
