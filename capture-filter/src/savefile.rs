//! Frames from capture files, by libpcap: pcap and pcapng, of either byte order.

use std::path::Path;

use pcap::{Capture, Linktype};
use thiserror::Error;

/// A capture file cannot be used.
#[derive(Debug, Error)]
pub enum SavefileError {
    /// Not there, not readable, or no capture file; libpcap's words.
    #[error("no capture file that libpcap reads: {0}")]
    Open(String),
    /// Frames of another kind of link, for which filters are compiled differently.
    #[error(
        "the file holds {found} frames, and filters are for Ethernet (EN10MB): pods' interfaces have no others"
    )]
    LinkType {
        /// libpcap's name of the link type.
        found: String,
    },
    /// The file is damaged; libpcap's words.
    #[error("after {frames} packets: {message}")]
    Damaged {
        /// How many could be read.
        frames: u64,
        /// What is wrong.
        message: String,
    },
}

/// A frame as it was captured.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// What was kept of it.
    pub bytes: &'a [u8],
    /// Its length on the wire.
    pub original_length: u32,
}

/// Gives every frame of a file to `each`, in order, until that fails.
///
/// # Errors
/// [`SavefileError`], as the caller's error, or the caller's own.
pub fn for_each<E: From<SavefileError>>(
    file: &Path,
    mut each: impl FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut capture = Capture::from_file(file).map_err(|error| SavefileError::Open(message(error)))?;
    let link_type = capture.get_datalink();
    if link_type != Linktype::ETHERNET {
        let found = link_type.get_name().unwrap_or_else(|_| format!("link type {}", link_type.0));
        return Err(SavefileError::LinkType { found }.into());
    }
    for frames in 0.. {
        match capture.next_packet() {
            Ok(packet) => each(Frame { bytes: packet.data, original_length: packet.header.len })?,
            Err(pcap::Error::NoMorePackets) => break,
            Err(error) => return Err(SavefileError::Damaged { frames, message: message(error) }.into()),
        }
    }
    Ok(())
}

fn message(error: pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(message) => message,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pcap file with one frame of 3 bytes, 60 on the wire, in a byte order and with a link type.
    fn pcap(number: fn(u32) -> [u8; 4], half: fn(u16) -> [u8; 2], link_type: u32) -> Vec<u8> {
        let mut file = number(0xa1b2_c3d4).to_vec();
        file.extend([half(2), half(4)].concat());
        file.extend([number(0), number(0), number(65535), number(link_type)].concat());
        file.extend([number(1), number(2), number(3), number(60)].concat());
        file.extend(b"abc");
        file
    }

    fn pcapng(number: fn(u32) -> [u8; 4], half: fn(u16) -> [u8; 2]) -> Vec<u8> {
        let mut file = [number(0x0a0d_0d0a), number(28), number(0x1a2b_3c4d)].concat();
        file.extend([half(1), half(0)].concat());
        file.extend([[0xff; 4], [0xff; 4], number(28)].concat());
        file.extend([number(1), number(20)].concat());
        file.extend([half(1), half(0)].concat());
        file.extend([number(0), number(20)].concat());
        file.extend([number(6), number(36), number(0), number(0), number(0), number(3), number(60)].concat());
        file.extend(b"abc\0");
        file.extend(number(36));
        file
    }

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<(Vec<u8>, u32)>, SavefileError> {
        let path = std::env::temp_dir().join(format!("podtap-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).expect("a file");
        let mut frames = Vec::new();
        let outcome = for_each(&path, |frame| {
            frames.push((frame.bytes.to_vec(), frame.original_length));
            Ok::<(), SavefileError>(())
        });
        std::fs::remove_file(&path).expect("it was there");
        outcome.map(|()| frames)
    }

    #[test]
    fn both_formats_and_both_byte_orders_are_read() {
        let expected = vec![(b"abc".to_vec(), 60)];
        for (name, file) in [
            ("le.pcap", pcap(u32::to_le_bytes, u16::to_le_bytes, 1)),
            ("be.pcap", pcap(u32::to_be_bytes, u16::to_be_bytes, 1)),
            ("le.pcapng", pcapng(u32::to_le_bytes, u16::to_le_bytes)),
            ("be.pcapng", pcapng(u32::to_be_bytes, u16::to_be_bytes)),
        ] {
            assert_eq!(read(name, &file).expect(name), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_said_plainly() {
        let error =
            read("raw.pcap", &pcap(u32::to_le_bytes, u16::to_le_bytes, 101)).expect_err("IP").to_string();
        assert_eq!(
            error,
            "the file holds RAW frames, and filters are for Ethernet (EN10MB): pods' interfaces have no others"
        );
        let whole = pcap(u32::to_le_bytes, u16::to_le_bytes, 1);
        let error = read("cut.pcap", &whole[..whole.len() - 1]).expect_err("cut").to_string();
        assert!(error.starts_with("after 0 packets: truncated"), "{error}");
        let error =
            read("text.pcap", b"no capture, some text of thirty bytes").expect_err("text").to_string();
        assert!(error.starts_with("no capture file that libpcap reads"), "{error}");
        let nothing = for_each(Path::new("/no/such/file"), |_| Ok::<(), SavefileError>(()));
        assert!(nothing.expect_err("nothing").to_string().contains("No such file"));
    }
}
