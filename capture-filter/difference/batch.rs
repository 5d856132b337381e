//! Up to 32 filters in one tc program, each without and with its fast path, run over the same packet at once.
//!
//! The program calls each as a function (so that `LD_ABS` ends no more than that one), leaves a bit for each in a map and
//! drops the packet. Before, it makes of the packet what it cannot be from the start: a VLAN tag in metadata, by
//! `bpf_skb_vlan_push`; and, in a test run, the types IPv4 and IPv6 in a frame too short for their headers, by writing
//! the type late.

use std::io;
use std::os::fd::OwnedFd;

use capture_filter::Filter;
use capture_filter::classic::Alu;
use capture_filter::insn::{Insn, Jump, Reg, Test};
use capture_filter::kernel::KernelError;
use capture_filter::kernel::sys::{self, FunctionInfo, ProgramType, TestContext};

use super::MetadataTag;
use super::loopback::Loopback;
use super::verdicts::{Verdicts, VerdictsMap};

/// Most filters of a batch: the bits of a word.
pub(crate) const MAX_FILTERS: usize = 32;

// Fields of struct __sk_buff (include/uapi/linux/bpf.h), by offset.
/// Protocol and control information of the tag to push, or 0.
const MARK: i16 = 8;
/// The type to write late, or 0.
const PRIORITY: i16 = 32;
// Helpers, include/uapi/linux/bpf.h.
const SKB_STORE_BYTES: i32 = 9;
const SKB_VLAN_PUSH: i32 = 18;
/// `TC_ACT_SHOT`
const DROP: u32 = 2;

/// Whose verdicts are where while filters run: those of the functions alone, and those with the fast paths.
const VERDICTS: [Reg; 2] = [Reg::R7, Reg::R8];
/// Bytes of the stack that the driver uses.
const STACK: u16 = 8;

pub(crate) struct Batch {
    program: OwnedFd,
    verdicts: VerdictsMap,
}

impl Batch {
    pub(crate) fn load<'a>(filters: impl ExactSizeIterator<Item = &'a Filter>) -> Result<Self, KernelError> {
        assert!(filters.len() <= MAX_FILTERS);
        let verdicts = VerdictsMap::new().map_err(|source| KernelError {
            call: "making a map",
            detail: String::new(),
            source,
        })?;
        let count = filters.len();
        let filters: Vec<&Filter> = filters.collect();
        let (mut code, calls) = driver(&filters, &verdicts);
        let mut starts = vec![0];
        for (filter, calls) in filters.iter().zip(calls) {
            for call in calls {
                code[call].imm = (code.len() - call - 1) as i32;
            }
            starts.push(code.len() as u32);
            code.extend_from_slice(&filter.translation().code);
        }
        let btf = sys::load_btf(&types(count))?;
        let functions: Vec<FunctionInfo> = starts
            .iter()
            .zip(FIRST_FUNCTION..)
            .map(|(&insn_off, type_id)| FunctionInfo { insn_off, type_id })
            .collect();
        let program = sys::load(ProgramType::Classifier, &code, Some((&btf, &functions)))?;
        Ok(Self { program, verdicts })
    }

    /// Runs all filters. A frame of 14 bytes or less, or longer than a page, is EINVAL.
    pub(crate) fn run(&self, frame: &[u8], tag: Option<MetadataTag>) -> io::Result<Verdicts> {
        let mut context = TestContext::default();
        context.mark = mark(tag);
        let short_ip =
            frame.len() < 14 + 40 && matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        if short_ip {
            // 16 bits in the order of memory, and a bit that says so.
            context.priority = u32::from(u16::from_ne_bytes([frame[12], frame[13]])) | 0x1_0000;
            let mut frame = frame.to_vec();
            frame[12..14].fill(0xff);
            sys::test_run(&self.program, &frame, Some(&context))?;
        } else {
            sys::test_run(&self.program, frame, Some(&context))?;
        }
        self.verdicts.read()
    }

    /// The same with packets that a device sends. `None` on kernels before 6.6, which have no tcx.
    pub(crate) fn on<'a>(&'a self, device: &'a Loopback) -> io::Result<Option<Sent<'a>>> {
        Ok(device.attach(&self.program)?.map(|link| Sent { batch: self, device, _link: link }))
    }
}

/// A batch on a loopback device.
pub(crate) struct Sent<'a> {
    batch: &'a Batch,
    device: &'a Loopback,
    _link: OwnedFd,
}

impl Sent<'_> {
    /// Runs all filters over a frame of 14 bytes or more. Of one of a page or more, only the first `linear` bytes (and 14)
    /// are where a program can read them directly.
    pub(crate) fn run(&self, frame: &[u8], tag: Option<MetadataTag>, linear: u16) -> io::Result<Verdicts> {
        self.device.send(frame, mark(tag), linear)?;
        self.batch.verdicts.read()
    }
}

fn mark(tag: Option<MetadataTag>) -> u32 {
    tag.map_or(0, |tag| u32::from(tag.protocol.to_be()) << 16 | u32::from(tag.tci))
}

/// The function in front of the filters, and where in it each is called.
fn driver(filters: &[&Filter], verdicts: &VerdictsMap) -> (Vec<Insn>, Vec<[usize; VERDICTS.len()]>) {
    let call = |helper| Insn { code: 0x85, dst: 0, src: 0, off: 0, imm: helper };
    let packet = Reg::R6;
    let mut code = vec![Insn::copy64(packet, Reg::R1)];
    code.extend(VERDICTS.map(|bits| Insn::set(bits, 0)));
    code.extend([
        Insn::load32(Reg::R1, packet, PRIORITY),
        Jump::If32(Test::Equal, Reg::R1, 0).insn(8),
        Insn::store64(Reg::R10, -8, Reg::R1),
        Insn::copy64(Reg::R1, packet),
        Insn::set(Reg::R2, 12),
        Insn::copy64(Reg::R3, Reg::R10),
        Insn::alu64(Alu::Add, Reg::R3, if cfg!(target_endian = "big") { -2 } else { -8 }),
        Insn::set(Reg::R4, 2),
        Insn::set(Reg::R5, 0),
        call(SKB_STORE_BYTES),
    ]);
    code.extend([
        Insn::load32(Reg::R2, packet, MARK),
        Jump::If32(Test::Equal, Reg::R2, 0).insn(5),
        Insn::copy(Reg::R3, Reg::R2),
        Insn::alu(Alu::And, Reg::R3, 0xffff),
        Insn::alu(Alu::Rsh, Reg::R2, 16),
        Insn::copy64(Reg::R1, packet),
        call(SKB_VLAN_PUSH),
    ]);
    let mut calls = Vec::with_capacity(filters.len());
    for (bit, filter) in filters.iter().enumerate() {
        let ways = [Vec::new(), filter.fast_path(STACK).unwrap_or_default()];
        let mut ways = VERDICTS.into_iter().zip(ways);
        calls.push([(); VERDICTS.len()].map(|()| {
            let (bits, fast) = ways.next().expect("as many as there are words");
            code.push(Insn::copy64(Reg::R1, packet));
            code.extend(fast);
            let call = code.len();
            // BPF_PSEUDO_CALL; where to is filled in later.
            code.push(Insn { code: 0x85, dst: 0, src: 1, off: 0, imm: 0 });
            code.push(Jump::If32(Test::Equal, Reg::R0, 0).insn(1));
            code.push(Insn::alu(Alu::Or, bits, 1 << bit));
            call
        }));
    }
    code.extend(verdicts.store(&VERDICTS));
    code.push(Insn::set(Reg::R0, DROP));
    code.push(Insn::EXIT);
    (code, calls)
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
