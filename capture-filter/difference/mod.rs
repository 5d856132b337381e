//! What the kernel makes of a filter against what libpcap's interpreter makes of it: shared by the tests and the fuzzer.

pub(crate) mod batch;
mod calls;
pub(crate) mod expressions;
pub(crate) mod loopback;
pub(crate) mod packets;
pub(crate) mod programs;
pub(crate) mod random;
pub(crate) mod verdicts;

use capture_filter::classic::Op;
use capture_filter::{ClassicProgram, Filter, FilterError, compile};
use pcap::BpfProgram;

use random::Random;

/// A filter, and who says what it means.
pub(crate) struct Pair {
    pub(crate) filter: Filter,
    reference: Reference,
}

enum Reference {
    Libpcap(BpfProgram),
    /// Classic BPF's rules, for programs that libpcap does not make.
    Rules,
}

impl Pair {
    pub(crate) fn new(expression: &str) -> Result<Self, FilterError> {
        let reference = Reference::Libpcap(compile::libpcap(expression)?);
        Ok(Self { filter: Filter::from_classic(expression, compile(expression)?)?, reference })
    }

    /// A program that no expression becomes.
    pub(crate) fn program(random: &mut Random) -> Self {
        let program = programs::generate(random);
        // Its listing stands in for a text.
        let filter = Filter::from_classic(program.to_string(), program).expect("short enough");
        Self { filter, reference: Reference::Rules }
    }

    /// Whether the filter has to match a frame with its tags inside.
    pub(crate) fn expects(&self, frame: &[u8]) -> bool {
        match &self.reference {
            Reference::Libpcap(program) => program.filter(frame),
            Reference::Rules => programs::interpret(self.filter.classic(), frame) != 0,
        }
    }
}

/// A VLAN tag that the kernel keeps beside a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetadataTag {
    /// 0x8100 or 0x88a8: the kernel knows no others.
    pub(crate) protocol: u16,
    pub(crate) tci: u16,
}

impl MetadataTag {
    /// The frame as it would be with the tag inside.
    pub(crate) fn put_into(self, frame: &[u8]) -> Vec<u8> {
        let mut tagged = Vec::with_capacity(frame.len() + 4);
        tagged.extend_from_slice(&frame[..12]);
        tagged.extend_from_slice(&self.protocol.to_be_bytes());
        tagged.extend_from_slice(&self.tci.to_be_bytes());
        tagged.extend_from_slice(&frame[12..]);
        tagged
    }
}

/// True when a program may read scratch memory that it has not written. libpcap makes such programs (`geneve or tcp`, where
/// `tcp` is looked for behind a header that need not be there), and its interpreter then reads what happens to be on its
/// stack, where ours has zeros: there is nothing to compare.
pub(crate) fn reads_unwritten_memory(program: &ClassicProgram) -> bool {
    // Words that are written whichever way an instruction is reached; `None` while no way is known. Jumps go forward.
    let mut written: Vec<Option<u16>> = vec![None; program.instructions().len() + 1];
    written[0] = Some(0);
    let meet =
        |place: &mut Option<u16>, words: u16| *place = Some(place.map_or(words, |others| others & words));
    for (index, op) in program.ops().enumerate() {
        let Some(words) = written[index] else { continue };
        match op {
            Op::LoadMemory(k) | Op::IndexMemory(k) if words >> k & 1 == 0 => return true,
            Op::Store(k) | Op::StoreIndex(k) => meet(&mut written[index + 1], words | 1 << k),
            Op::Jump(skip) => meet(&mut written[index + 1 + skip as usize], words),
            Op::Branch(_, _, jt, jf) => {
                meet(&mut written[index + 1 + usize::from(jt)], words);
                meet(&mut written[index + 1 + usize::from(jf)], words);
            }
            Op::ReturnConstant(_) | Op::ReturnA => {}
            _ => meet(&mut written[index + 1], words),
        }
    }
    false
}
