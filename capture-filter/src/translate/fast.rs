//! The fast path of a filter, for tc programs.
//!
//! A call of a function costs 7 to 9 ns on processors where the kernel guards returns, and as much again each `LD_ABS`, which is a
//! call into the kernel. A tc program may also look at a packet's linear part by itself, which costs 1 ns (a socket's may
//! not), and nearly all packets have there what filters ask for. So these instructions stand in front of the call, and decide without it;
//! for a packet with its tag in metadata, or with less in its linear part, they go on to the call, which decides anew.
//!
//! They change r0 to r5, which a call may change too, and so need not save anything.

use super::loads::{Loads, forget, never_succeeds};
use super::{A, MAX_CODE, PACKET, SKB_LEN, SKB_VLAN_PRESENT, X, body, clear, depends_on_tag, reachable};
use crate::assembler::{Assembler, Label};
use crate::classic::{Alu, ClassicProgram, Op, Size};
use crate::insn::{Insn, Jump, Reg, Test};

// Fields of struct __sk_buff (include/uapi/linux/bpf.h), by offset: where the linear part begins and ends.
const SKB_DATA: i16 = 76;
const SKB_DATA_END: i16 = 80;

/// One comparison vouches for all that is read before this: the headers of Ethernet and IPv4.
const HEADERS: u32 = 34;
/// Loads beyond this are left to the call: an instruction has 16 bits for an offset, and linear parts end before.
const FARTHEST: u32 = 0x7000;
/// What is longer is not put in front of the call: jumps over it have 16 bits, and the verifier's time is a tap's.
const MAX_FAST: usize = MAX_CODE / 2;

const PLACE: Reg = Reg::R2;
const DATA: Reg = Reg::R3;
const DATA_END: Reg = Reg::R4;
/// Where X is here: no load destroys registers.
const FAST_X: Reg = Reg::R5;
/// Where the packet is when the function is called, and here until then.
const FAST_PACKET: Reg = Reg::R1;

/// Instructions to be put before a call of the filter, between those that use `stack` bytes below r10. A jump to their end
/// leads to the call, one beyond it behind the call, with r0 as the call would leave it. `None` if the call is all there
/// is to do.
pub(crate) fn fast_path(program: &ClassicProgram, stack: u16) -> Option<Vec<Insn>> {
    let reachable = reachable(program);
    let ops = || program.ops().zip(&reachable).filter(|(_, reached)| **reached).map(|(op, _)| op);
    let ends = || ops().filter_map(end_of_load);
    if ends().any(|end| end > FARTHEST) {
        return None;
    }
    let mut asm = Assembler::default();
    let (reject, call, behind) = (asm.label(), asm.label(), asm.label());
    if ops().any(depends_on_tag) {
        asm.emit(Insn::load32(PLACE, PACKET, SKB_VLAN_PRESENT));
        asm.jump(Jump::If32(Test::NotEqual, PLACE, 0), call);
    }
    if ops().any(|op| matches!(op, Op::LoadAbsolute(..) | Op::LoadIndirect(..) | Op::IndexHeaderLength(_))) {
        asm.emit(Insn::load32(DATA, PACKET, SKB_DATA));
        asm.emit(Insn::load32(DATA_END, PACKET, SKB_DATA_END));
    }
    let loads = Linear { checked: ends().filter(|end| *end <= HEADERS).max().unwrap_or(0), call, behind };
    if loads.checked > 0 {
        loads.check(&mut asm, loads.checked);
    }
    clear(&mut asm, program, &reachable);
    body(&mut asm, program, &reachable, &loads, reject);
    if asm.is_used(reject) {
        asm.bind(reject);
        asm.emit(Insn::set(A, 0));
        loads.end(&mut asm);
    }
    if !asm.is_used(call) {
        // The verifier wants the call to be reached.
        return None;
    }
    asm.bind_ahead(call, 0);
    asm.bind_ahead(behind, 1);
    let mut code = asm.finish().ok()?;
    if code.len() > MAX_FAST {
        return None;
    }
    let below = i16::try_from(stack).ok()?;
    for insn in &mut code {
        for reg in [&mut insn.dst, &mut insn.src] {
            if *reg == PACKET as u8 {
                *reg = FAST_PACKET as u8;
            } else if *reg == X as u8 {
                *reg = FAST_X as u8;
            } else if *reg == Reg::R10 as u8 {
                insn.off -= below;
            }
        }
    }
    Some(code)
}

/// Where the bytes of a load end whose offset is known.
fn end_of_load(op: Op) -> Option<u32> {
    match op {
        _ if never_succeeds(op) => None,
        Op::LoadAbsolute(size, k) => Some(k + size.bytes()),
        Op::IndexHeaderLength(k) => Some(k + 1),
        _ => None,
    }
}

/// Loads from a packet's linear part.
struct Linear {
    /// So many bytes are known to be there.
    checked: u32,
    call: Label,
    behind: Label,
}

impl Linear {
    /// To the call unless so many bytes are there; leaves in a register where they end.
    fn check(&self, asm: &mut Assembler, bytes: u32) {
        asm.emit(Insn::copy64(PLACE, DATA));
        self.check_from(asm, bytes);
    }

    fn check_from(&self, asm: &mut Assembler, bytes: u32) {
        asm.emit(Insn::alu64(Alu::Add, PLACE, bytes.cast_signed()));
        asm.jump(Jump::If64Reg(Test::Greater, PLACE, DATA_END), self.call);
    }

    fn load(&self, asm: &mut Assembler, size: Size, to: Reg, k: u32) {
        let end = k + size.bytes();
        if end <= self.checked {
            asm.emit(Insn::load(size, to, DATA, k as i16));
        } else {
            self.check(asm, end);
            asm.emit(Insn::load(size, to, PLACE, -(size.bytes() as i16)));
        }
    }
}

fn from_network_order(asm: &mut Assembler, size: Size) {
    if size != Size::Byte {
        asm.emit(Insn::big_endian(A, (size.bytes() * 8).cast_signed()));
    }
}

impl Loads for Linear {
    fn absolute(&self, asm: &mut Assembler, size: Size, k: u32) {
        self.load(asm, size, A, k);
        from_network_order(asm, size);
    }

    fn indirect(&self, asm: &mut Assembler, size: Size, k: u32, _: Label) {
        forget(asm, PLACE, X);
        if k > 0 {
            asm.emit(Insn::alu64(Alu::Add, PLACE, k.cast_signed()));
        }
        asm.jump(Jump::If64(Test::Greater, PLACE, FARTHEST.cast_signed()), self.call);
        asm.emit(Insn::alu64_reg(Alu::Add, PLACE, DATA));
        self.check_from(asm, size.bytes());
        asm.emit(Insn::load(size, A, PLACE, -(size.bytes() as i16)));
        from_network_order(asm, size);
    }

    fn header_length(&self, asm: &mut Assembler, k: u32) {
        self.load(asm, Size::Byte, X, k);
        asm.emit(Insn::alu(Alu::And, X, 0xf));
        asm.emit(Insn::alu(Alu::Lsh, X, 2));
    }

    fn length(&self, asm: &mut Assembler, to: Reg) {
        asm.emit(Insn::load32(to, PACKET, SKB_LEN));
    }

    fn end(&self, asm: &mut Assembler) {
        asm.jump(Jump::Always, self.behind);
    }
}
