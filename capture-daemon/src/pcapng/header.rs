//! What every file starts with: section header, interface description, names.

use std::net::IpAddr;

use super::encode::{Block, COMMENT, plain};

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const NAMES: u32 = 4;
/// Ethernet, from the [link type registry](https://www.tcpdump.org/linktypes.html).
const LINKTYPE_ETHERNET: u16 = 1;
/// Timestamps count units of 10^-9 s.
const NANOSECONDS: u8 = 9;
/// Comments come from users (labels, names); together they take no more than this, in bytes.
const COMMENTS: usize = 48 << 10;
/// Bytes of names and addresses, for the same reason.
const NAME_RECORDS: usize = 32 << 10;

/// The interface that a file's packets were captured on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// `if_name`.
    pub name: String,
    /// `if_description`.
    pub description: String,
    /// `if_filter`, as a pcap-filter(7) expression.
    pub filter: Option<String>,
    /// The longest captured length of a packet, in bytes.
    pub snap_length: u32,
    /// `if_os`.
    pub os: String,
    /// `if_hardware`.
    pub hardware: String,
    /// One comment each.
    pub comments: Vec<String>,
}

/// The blocks before the first packet. Texts may be of any length and content: they are cut to what an option
/// holds, and all comments together to 48 KiB, so a header stays below 512 KiB whatever it is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileHeader {
    /// `shb_hardware`.
    pub hardware: String,
    /// `shb_os`.
    pub os: String,
    /// `shb_userappl`: the program and its version.
    pub application: String,
    /// One comment each.
    pub comments: Vec<String>,
    /// The only interface of the section; its number is 0, its link type Ethernet, its unit of time 1 ns.
    pub interface: Interface,
    /// Names of addresses. Those with no name are left out.
    pub names: Vec<(IpAddr, Vec<String>)>,
}

impl FileHeader {
    /// The finished blocks, a multiple of 4 bytes long.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut room = COMMENTS;
        let mut bytes = self.section(&mut room);
        bytes.extend(self.interface.block(&mut room));
        bytes.extend(self.name_block().unwrap_or_default());
        bytes
    }

    fn section(&self, room: &mut usize) -> Vec<u8> {
        let mut block = Block::new(SECTION);
        block.u32(BYTE_ORDER);
        block.u16(1);
        block.u16(0);
        block.u64(u64::MAX); // The section's length is not known beforehand.
        block.text(2, &self.hardware);
        block.text(3, &self.os);
        block.text(4, &self.application);
        comments(&mut block, &self.comments, room);
        block.end()
    }

    fn name_block(&self) -> Option<Vec<u8>> {
        let mut block = Block::new(NAMES);
        let mut room = NAME_RECORDS;
        let mut any = false;
        for (address, names) in &self.names {
            let names: Vec<String> =
                names.iter().map(|name| plain(name, 1024)).filter(|name| !name.is_empty()).collect();
            let length = 16 + names.iter().map(|name| name.len() + 1).sum::<usize>();
            if names.is_empty() || length > room {
                continue;
            }
            room -= length;
            let (code, mut record) = match address {
                IpAddr::V4(address) => (1, address.octets().to_vec()),
                IpAddr::V6(address) => (2, address.octets().to_vec()),
            };
            for name in names {
                record.extend_from_slice(name.as_bytes());
                record.push(0);
            }
            block.option(code, &record);
            any = true;
        }
        // The end of the records; this block has no options after them, so it ends here.
        any.then(|| block.end())
    }
}

impl Interface {
    fn block(&self, room: &mut usize) -> Vec<u8> {
        let mut block = Block::new(INTERFACE);
        block.u16(LINKTYPE_ETHERNET);
        block.u16(0);
        block.u32(self.snap_length);
        block.text(2, &self.name);
        block.text(3, &self.description);
        block.option(9, &[NANOSECONDS]);
        if let Some(filter) = &self.filter {
            let mut value = vec![0]; // Code 0: what follows is the expression.
            value.extend_from_slice(plain(filter, super::MAX_OPTION - 1).as_bytes());
            block.option(11, &value);
        }
        block.text(12, &self.os);
        block.text(15, &self.hardware);
        comments(&mut block, &self.comments, room);
        block.end()
    }
}

/// Writes comments while there is `room`, and says so when some are left out.
fn comments(block: &mut Block, comments: &[String], room: &mut usize) {
    for (written, comment) in comments.iter().enumerate() {
        let text = plain(comment, *room);
        *room -= text.len();
        block.text(COMMENT, &text);
        if *room == 0 {
            let left = comments.len() - written - 1;
            block.text(COMMENT, &format!("cut here; {left} more comments left out"));
            return;
        }
    }
}
