//! A strict reader of pcapng (draft-ietf-opsawg-pcapng), written for tests: it takes nothing on trust and forgives
//! nothing, where other readers skip what they do not like.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// What one file holds.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Packets in the order of the file.
    pub packets: Vec<Packet>,
    /// Snap length of its one interface.
    pub snap_length: u32,
    /// Options of the section header, then of the interface: code and value.
    pub options: Vec<(u16, Vec<u8>)>,
    /// Statistics blocks, their options.
    pub statistics: Vec<Vec<(u16, Vec<u8>)>>,
    /// Name resolution records: raw values.
    pub names: Vec<Vec<u8>>,
    /// Blocks of local use, which readers skip.
    pub fillers: usize,
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Length on the wire.
    pub original: u32,
    /// What was kept.
    pub data: Vec<u8>,
    /// Whether the pod sent it.
    pub outbound: bool,
}

/// Reads a file to its last byte.
pub fn read(path: &Path) -> Result<Blocks> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    parse(&bytes).with_context(|| path.display().to_string())
}

/// Reads the content of a file to its last byte.
pub fn parse(bytes: &[u8]) -> Result<Blocks> {
    let mut blocks = Blocks::default();
    let (mut sections, mut interfaces) = (0, 0);
    let mut at = 0;
    while at < bytes.len() {
        let (kind, body) = block(&bytes[at..]).with_context(|| format!("block at {at}"))?;
        ensure!(at > 0 || kind == SECTION, "the file does not begin with a section header");
        let mut body = Words { bytes: body };
        let read = (|| -> Result<()> {
            match kind {
                SECTION => {
                    sections += 1;
                    ensure!(body.u32()? == 0x1a2b_3c4d, "not of this machine's byte order");
                    ensure!((body.u16()?, body.u16()?) == (1, 0), "version");
                    ensure!((body.u32()?, body.u32()?) == (u32::MAX, u32::MAX), "section length is not open");
                    blocks.options.extend(body.options()?);
                }
                INTERFACE => {
                    interfaces += 1;
                    ensure!(body.u16()? == 1, "link type is not Ethernet");
                    ensure!(body.u16()? == 0, "reserved");
                    blocks.snap_length = body.u32()?;
                    let options = body.options()?;
                    ensure!(
                        options.iter().any(|(code, value)| (*code, &value[..]) == (9, &[9])),
                        "resolution"
                    );
                    blocks.options.extend(options);
                }
                PACKET => {
                    ensure!(interfaces == 1, "a packet before its interface");
                    blocks.packets.push(body.packet(blocks.snap_length)?);
                }
                NAMES => blocks.names.extend(body.names()?),
                STATISTICS => {
                    ensure!(body.u32()? == 0, "interface");
                    body.take(8)?;
                    blocks.statistics.push(body.options()?);
                }
                local if local & 0x8000_0000 != 0 => blocks.fillers += 1,
                other => bail!("unexpected type {other}"),
            }
            Ok(())
        })();
        read.with_context(|| format!("block of type {kind:#x} at {at}"))?;
        at += usize::try_from(u32_at(bytes, at + 4)?)?;
    }
    ensure!((sections, interfaces) == (1, 1), "{sections} sections, {interfaces} interfaces");
    Ok(blocks)
}

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const NAMES: u32 = 4;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..at + 4).context("cut off")?;
    Ok(u32::from_le_bytes(word.try_into()?))
}

/// Type and body of the block that `bytes` begins with.
fn block(bytes: &[u8]) -> Result<(u32, &[u8])> {
    let total = usize::try_from(u32_at(bytes, 4)?)?;
    ensure!(total >= 12 && total.is_multiple_of(4), "length {total}");
    let body = bytes.get(8..total - 4).context("the file ends inside the block")?;
    ensure!(u32_at(bytes, total - 4)? as usize == total, "the lengths before and behind differ");
    Ok((u32_at(bytes, 0)?, body))
}

struct Words<'a> {
    bytes: &'a [u8],
}

impl<'a> Words<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(length).context("the block is too short")?;
        self.bytes = tail;
        Ok(head)
    }

    /// `length` bytes and the zeros up to the next multiple of 4.
    fn padded(&mut self, length: usize) -> Result<&'a [u8]> {
        let value = self.take(length)?;
        let padding = self.take(length.next_multiple_of(4) - length)?;
        ensure!(padding.iter().all(|&byte| byte == 0), "padding is not zero");
        Ok(value)
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take(2)?.try_into()?))
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take(4)?.try_into()?))
    }

    fn options(&mut self) -> Result<Vec<(u16, Vec<u8>)>> {
        let mut options = Vec::new();
        while !self.bytes.is_empty() {
            let (code, length) = (self.u16()?, self.u16()?);
            if code == 0 {
                ensure!(length == 0 && self.bytes.is_empty(), "something follows the end of the options");
                return Ok(options);
            }
            options.push((code, self.padded(length.into())?.to_vec()));
        }
        ensure!(options.is_empty(), "the options have no end");
        Ok(options)
    }

    fn packet(&mut self, snap_length: u32) -> Result<Packet> {
        ensure!(self.u32()? == 0, "interface");
        let (high, low) = (self.u32()?, self.u32()?);
        let (captured, original) = (self.u32()?, self.u32()?);
        ensure!(captured <= original, "captured {captured} of {original}");
        ensure!(snap_length == 0 || captured <= snap_length, "captured {captured} over {snap_length}");
        let data = self.padded(usize::try_from(captured)?)?.to_vec();
        let options = self.options()?;
        let flags = options.iter().find(|(code, _)| *code == 2).context("no flags")?;
        let outbound = match u32_at(&flags.1, 0)? & 3 {
            1 => false,
            2 => true,
            other => bail!("direction {other}"),
        };
        Ok(Packet { time: u64::from(high) << 32 | u64::from(low), original, data, outbound })
    }

    fn names(&mut self) -> Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        loop {
            let (kind, length) = (self.u16()?, self.u16()?);
            if kind == 0 {
                self.options()?;
                return Ok(names);
            }
            names.push(self.padded(length.into())?.to_vec());
        }
    }
}

impl Blocks {
    /// The texts of options with that code, of the section header and the interface.
    pub fn texts(&self, code: u16) -> Vec<String> {
        let wanted = self.options.iter().filter(|(found, _)| *found == code);
        wanted.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_of(kind: u32, body: &[u8]) -> Vec<u8> {
        let total = (12 + body.len()) as u32;
        [&kind.to_le_bytes()[..], &total.to_le_bytes(), body, &total.to_le_bytes()].concat()
    }

    fn file(packet_flags: u8) -> Vec<u8> {
        let mut section = 0x1a2b_3c4du32.to_le_bytes().to_vec();
        section.extend([1, 0, 0, 0]);
        section.extend([0xff; 8]);
        let interface = [1, 0, 0, 0, 100, 0, 0, 0, 9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        let mut packet = vec![0; 4];
        packet.extend([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 60, 0, 0, 0, 7, 8, 9, 0]);
        packet.extend([2, 0, 4, 0, packet_flags, 0, 0, 0, 0, 0, 0, 0]);
        [block_of(SECTION, &section), block_of(INTERFACE, &interface), block_of(PACKET, &packet)].concat()
    }

    #[test]
    fn a_packet_is_read_with_all_it_has() {
        let blocks = parse(&file(2)).unwrap();
        let packet = Packet { time: 1 << 32 | 2, original: 60, data: vec![7, 8, 9], outbound: true };
        assert_eq!((blocks.packets, blocks.snap_length), (vec![packet], 100));
        let filler = block_of(0x8000_0001, &[0; 40]);
        assert_eq!(parse(&[file(1), filler].concat()).unwrap().fillers, 1);
    }

    #[test]
    fn what_is_not_right_is_an_error() {
        let good = file(1);
        assert!(parse(&good[..good.len() - 1]).is_err(), "cut");
        assert!(parse(&[&good[..], &[0; 16]].concat()).is_err(), "zeros behind");
        assert!(parse(&file(0)).is_err(), "no direction");
        assert!(parse(&[&good[..], &good[..]].concat()).is_err(), "two sections");
        assert!(parse(&[]).is_err(), "empty");
    }
}
