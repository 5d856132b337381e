//! Up to 32 filters in one program, run over the same packet in one system call.
//!
//! The program calls each as a function (so that `LD_ABS` ends no more than that one) and returns a bit for each. Before,
//! it makes of the packet what a test run cannot be given: a VLAN tag in metadata, by `bpf_skb_vlan_push`; and the types
//! IPv4 and IPv6 in a frame too short for their headers, by writing the type late.

use std::io;
use std::os::fd::OwnedFd;

use capture_filter::Filter;
use capture_filter::classic::Alu;
use capture_filter::insn::{Insn, Jump, Reg, Test};
use capture_filter::kernel::KernelError;
use capture_filter::kernel::sys::{self, FunctionInfo, ProgramType, TestContext};

use super::MetadataTag;

/// Most filters of a batch: the bits of a test run's result.
pub(crate) const MAX_FILTERS: usize = 32;

// Words of the context's `cb`, at its offset in struct __sk_buff.
const CB: i16 = 48;
const TAG_PROTOCOL: usize = 0;
const TAG_TCI: usize = 1;
const LATE_TYPE: usize = 2;
// Helpers, include/uapi/linux/bpf.h.
const SKB_STORE_BYTES: i32 = 9;
const SKB_VLAN_PUSH: i32 = 18;

pub(crate) struct Batch {
    program: OwnedFd,
}

impl Batch {
    pub(crate) fn load<'a>(filters: impl ExactSizeIterator<Item = &'a Filter>) -> Result<Self, KernelError> {
        assert!(filters.len() <= MAX_FILTERS);
        let count = filters.len();
        let mut code = driver(count);
        let mut starts = vec![0];
        let first_call = code.len() - 2 - count * 4 + 1;
        for (index, filter) in filters.enumerate() {
            let call = first_call + index * 4;
            code[call].imm = (code.len() - call - 1) as i32;
            starts.push(code.len() as u32);
            code.extend_from_slice(&filter.translation().code);
        }
        let btf = sys::load_btf(&types(count))?;
        let functions: Vec<FunctionInfo> = starts
            .iter()
            .zip(FIRST_FUNCTION..)
            .map(|(&insn_off, type_id)| FunctionInfo { insn_off, type_id })
            .collect();
        Ok(Self { program: sys::load(ProgramType::Classifier, &code, Some((&btf, &functions)))? })
    }

    /// Runs all filters: bit N is set when filter N matches. A frame of 14 bytes or less, or longer than a page, is EINVAL.
    pub(crate) fn run(&self, frame: &[u8], tag: Option<MetadataTag>) -> io::Result<u32> {
        let mut context = TestContext::default();
        if let Some(tag) = tag {
            context.cb[TAG_PROTOCOL] = u32::from(tag.protocol.to_be());
            context.cb[TAG_TCI] = u32::from(tag.tci);
        }
        let short_ip =
            frame.len() < 14 + 40 && matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if !short_ip {
            return sys::test_run(&self.program, frame, Some(&context));
        }
        // 16 bits in the order of memory, and a bit that says so.
        context.cb[LATE_TYPE] = u32::from(u16::from_ne_bytes([frame[12], frame[13]])) | 0x1_0000;
        let mut frame = frame.to_vec();
        frame[12..14].fill(0xff);
        sys::test_run(&self.program, &frame, Some(&context))
    }
}

/// The function in front of the filters: its last instructions are 4 for each filter, and 2.
fn driver(count: usize) -> Vec<Insn> {
    let cb = |word: usize| CB + 4 * word as i16;
    let call = |helper| Insn { code: 0x85, dst: 0, src: 0, off: 0, imm: helper };
    let packet = Reg::R6;
    let store_bytes = [
        Insn::load32(Reg::R1, packet, cb(LATE_TYPE)),
        Jump::If32(Test::Equal, Reg::R1, 0).insn(8),
        Insn::store64(Reg::R10, -8, Reg::R1),
        Insn::copy64(Reg::R1, packet),
        Insn::set(Reg::R2, 12),
        Insn::copy64(Reg::R3, Reg::R10),
        Insn::alu64(Alu::Add, Reg::R3, if cfg!(target_endian = "big") { -2 } else { -8 }),
        Insn::set(Reg::R4, 2),
        Insn::set(Reg::R5, 0),
        call(SKB_STORE_BYTES),
    ];
    let push_tag = [
        Insn::load32(Reg::R2, packet, cb(TAG_PROTOCOL)),
        Jump::If32(Test::Equal, Reg::R2, 0).insn(3),
        Insn::load32(Reg::R3, packet, cb(TAG_TCI)),
        Insn::copy64(Reg::R1, packet),
        call(SKB_VLAN_PUSH),
    ];
    let mut code = vec![Insn::copy64(packet, Reg::R1), Insn::set(Reg::R7, 0)];
    code.extend(store_bytes);
    code.extend(push_tag);
    for bit in 0..count {
        code.push(Insn::copy64(Reg::R1, packet));
        // BPF_PSEUDO_CALL; where to is filled in later.
        code.push(Insn { code: 0x85, dst: 0, src: 1, off: 0, imm: 0 });
        code.push(Jump::If32(Test::Equal, Reg::R0, 0).insn(1));
        code.push(Insn::alu(Alu::Or, Reg::R7, 1 << bit));
    }
    code.push(Insn::copy(Reg::R0, Reg::R7));
    code.push(Insn::EXIT);
    code
}

/// Type ids: u32, struct __sk_buff, a pointer to it, a function of it, and then the functions.
const FIRST_FUNCTION: u32 = 5;

/// The BTF of a program with that many global functions behind the first (Documentation/bpf/btf.rst).
fn types(count: usize) -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut name = |text: &str| {
        let offset = strings.len() as u32;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        offset
    };
    let kind = |kind: u32, vlen: u32| kind << 24 | vlen;
    let mut types: Vec<u32> = Vec::new();
    types.extend([name("u32"), kind(1, 0), 4, 32]);
    types.extend([name("__sk_buff"), kind(4, 0), 0]);
    types.extend([0, kind(2, 0), 2]);
    types.extend([0, kind(13, 1), 1, name("skb"), 3]);
    for function in 0..=count {
        // Linkage 1: global, so that each is verified once, on its own.
        types.extend([name(&format!("filter{function}")), kind(12, 1), 4]);
    }
    let types: Vec<u8> = types.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut btf = Vec::new();
    btf.extend_from_slice(&0xeb9fu16.to_ne_bytes());
    btf.extend_from_slice(&[1, 0]);
    for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
        btf.extend_from_slice(&word.to_ne_bytes());
    }
    btf.extend(types);
    btf.extend(strings);
    btf
}
