//! Counts the packets of capture files of any size, and checks that numbered ones are all there.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read as _, Seek as _};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use podtap_tests::traffic::HEADERS;

/// What files hold, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    /// Packets to the port asked for; all others too when it is 0.
    pub(crate) packets: u64,
    /// Whether each of them had a higher number than the one before.
    pub(crate) rising: bool,
    /// Number of the first.
    pub(crate) first: Option<u64>,
    last: Option<u64>,
}

impl Default for Counted {
    fn default() -> Self {
        Self { packets: 0, rising: true, first: None, last: None }
    }
}

/// Bytes of a packet that tell its port and number.
const LOOK: usize = HEADERS + 8;
const SECTION: u32 = 0x0a0d_0d0a;
const PACKET: u32 = 6;

/// Counts one pcap or pcapng file.
pub(crate) fn packets(file: &Path, port: u16) -> Result<Counted> {
    let mut counted = Counted::default();
    counted.add(file, port)?;
    Ok(counted)
}

impl Counted {
    /// Adds a file, the next one of the same capture. It must end with a whole block.
    pub(crate) fn add(&mut self, path: &Path, port: u16) -> Result<()> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let length = file.metadata()?.len();
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let whole = if word(&mut reader)? == Some(SECTION) {
            reader.rewind()?;
            self.blocks(&mut reader, port)
        } else {
            reader.seek_relative(20)?;
            self.records(&mut reader, port)
        };
        let end = whole.with_context(|| path.display().to_string())?;
        ensure!(end == length, "{}: ends inside a packet", path.display());
        Ok(())
    }

    /// Whether each packet had the number of the one before plus one.
    pub(crate) fn ordered(&self) -> bool {
        let mut ends = self.first.into_iter().zip(self.last);
        self.rising && ends.all(|(first, last)| last - first + 1 == self.packets)
    }

    /// pcapng: returns where the last block ends.
    fn blocks(&mut self, reader: &mut BufReader<File>, port: u16) -> Result<u64> {
        let mut at = 0;
        while let Some(kind) = word(reader)? {
            let total = word(reader)?.context("cut off")?;
            ensure!(total >= 12 && total.is_multiple_of(4), "a block of {total} bytes at {at}");
            let mut rest = u64::from(total) - 8;
            if kind == PACKET {
                reader.seek_relative(12)?;
                let captured = word(reader)?.context("cut off")?;
                word(reader)?;
                rest -= 20;
                rest -= self.packet(reader, captured, port)?;
            }
            reader.seek_relative(i64::try_from(rest)?)?;
            at += u64::from(total);
        }
        Ok(at)
    }

    /// pcap: returns where the last record ends.
    fn records(&mut self, reader: &mut BufReader<File>, port: u16) -> Result<u64> {
        let mut at = 24;
        while word(reader)?.is_some() {
            reader.seek_relative(4)?;
            let captured = word(reader)?.context("cut off")?;
            word(reader)?;
            let read = self.packet(reader, captured, port)?;
            reader.seek_relative(i64::from(captured) - i64::try_from(read)?)?;
            at += 16 + u64::from(captured);
        }
        Ok(at)
    }

    /// Looks at a packet's first bytes; returns how many it took.
    fn packet(&mut self, reader: &mut BufReader<File>, captured: u32, port: u16) -> Result<u64> {
        if port == 0 || (captured as usize) < LOOK {
            self.packets += u64::from(port == 0);
            return Ok(0);
        }
        let mut head = [0; LOOK];
        reader.read_exact(&mut head)?;
        if head[12..14] == [8, 0] && head[23] == 17 && head[36..38] == port.to_be_bytes() {
            let number = u64::from_be_bytes(*head[HEADERS..].first_chunk().context("short")?);
            self.first.get_or_insert(number);
            self.rising &= self.last.replace(number).is_none_or(|last| last < number);
            self.packets += 1;
        }
        Ok(LOOK as u64)
    }
}

/// The next four bytes, none at the end of the file.
fn word(reader: &mut BufReader<File>) -> Result<Option<u32>> {
    let mut bytes = [0; 4];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(u32::from_le_bytes(bytes))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podtap_tests::scratch::Scratch;

    fn udp(number: u64) -> Vec<u8> {
        let mut frame = vec![0; LOOK];
        frame[12] = 8;
        frame[23] = 17;
        frame[36..38].copy_from_slice(&7u16.to_be_bytes());
        frame[HEADERS..].copy_from_slice(&number.to_be_bytes());
        frame
    }

    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let total = (body.len() as u32 + 12).to_le_bytes();
        [&kind.to_le_bytes()[..], &total, body, &total].concat()
    }

    fn captured(frame: &[u8]) -> Vec<u8> {
        let length = (frame.len() as u32).to_le_bytes();
        [&[0; 12][..], &length, &length, frame, &[0; 2]].concat()
    }

    #[test]
    fn packets_are_counted_in_both_formats_and_gaps_are_seen() {
        let scratch = Scratch::new("count").unwrap();
        let file = scratch.path().join("f");
        let mut ng = block(SECTION, &[0; 16]);
        for number in 5..8 {
            ng.extend(block(PACKET, &captured(&udp(number))));
        }
        ng.extend(block(0x8000_0001, &[0; 400]));
        std::fs::write(&file, &ng).unwrap();
        let counted = packets(&file, 7).unwrap();
        assert_eq!((counted.packets, counted.ordered(), counted.first), (3, true, Some(5)));
        assert_eq!(packets(&file, 8).unwrap().packets, 0);
        assert_eq!(packets(&file, 0).unwrap().packets, 3);
        ng.extend(block(PACKET, &captured(&udp(9))));
        std::fs::write(&file, &ng).unwrap();
        let counted = packets(&file, 7).unwrap();
        assert!(!counted.ordered() && counted.rising);
        ng.extend(block(PACKET, &captured(&udp(9))));
        std::fs::write(&file, &ng).unwrap();
        assert!(!packets(&file, 7).unwrap().rising);
        std::fs::write(&file, &ng[..ng.len() - 1]).unwrap();
        assert!(packets(&file, 7).is_err());

        let mut old = vec![0; 24];
        for number in 0..2 {
            let length = (LOOK as u32).to_le_bytes();
            old.extend([&[0; 8][..], &length, &length, &udp(number)].concat());
        }
        std::fs::write(&file, &old).unwrap();
        assert_eq!(packets(&file, 7).unwrap().packets, 2);
    }
}
