//! Classic BPF to eBPF, nearly one to one.
//!
//! Registers: r6 the packet, r0 the accumulator A, r7 the index X, r8 the tag, r9 scratch; M[] is on the stack. All
//! arithmetic is 32 bits wide and leaves the upper halves 0. Loads are eBPF's own `LD_ABS` and `LD_IND`, which end the
//! function with 0 when the bytes are not there, as classic BPF's do, and also read what is not in a packet's linear part.
//!
//! The kernel may keep a packet's VLAN tag beside the packet. Then a second translation of the same program is taken, in
//! which the frame has the tag where it would be: `loads` does the difference.
//!
//! What tc programs try first, in the place where they would call this function, is a third one: `fast`.

mod fast;
mod loads;

pub(crate) use self::fast::fast_path;
use self::loads::Loads;
use crate::FilterError;
use crate::assembler::{Assembler, Label};
use crate::classic::{Alu, ClassicProgram, Condition, MEMORY_WORDS, Op, Operand, Size};
use crate::insn::{Insn, Jump, Reg, Test};

/// Most instructions of a filter. The verifier is done with as many in about a tenth of a second.
pub const MAX_CODE: usize = 8192;

/// Where a packet's (outer) VLAN tag is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// In the frame, or there is none.
    InFrame,
    /// In the kernel's metadata: `skb->vlan_present`.
    InMetadata,
}

/// A function `u32 filter(struct __sk_buff *skb)`: 0 when the packet does not match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The instructions.
    pub code: Vec<Insn>,
    /// Index of the part for packets with the tag in metadata, if it differs.
    pub metadata: Option<usize>,
}

// Fields of struct __sk_buff (include/uapi/linux/bpf.h), by offset.
const SKB_LEN: i16 = 0;
const SKB_VLAN_PRESENT: i16 = 20;
const SKB_VLAN_TCI: i16 = 24;
const SKB_VLAN_PROTO: i16 = 28;

const PACKET: Reg = Reg::R6;
const A: Reg = Reg::R0;
const X: Reg = Reg::R7;
/// Protocol and control information of a tag in metadata, as the 4 bytes would stand in the frame.
const TAG: Reg = Reg::R8;
const SCRATCH: Reg = Reg::R9;
/// Size of a tag in the frame.
const TAG_BYTES: u32 = 4;
/// Stack slot of an offset, below M[], which has slots of 8 bytes too.
const OFFSET_SLOT: i16 = -(8 * MEMORY_WORDS as i16) - 8;
/// Half a stack slot, below that: see `loads::forget`.
const FORGETFUL_SLOT: i16 = OFFSET_SLOT - 4;

/// Translates a program.
///
/// # Errors
/// [`FilterError::ProgramTooLong`] when it does not fit into `limit` instructions.
pub fn translate(program: &ClassicProgram, limit: usize) -> Result<Translation, FilterError> {
    let mut asm = Assembler::default();
    let reject = asm.label();
    let reachable = reachable(program);
    asm.emit(Insn::copy64(PACKET, Reg::R1));
    clear(&mut asm, program, &reachable);

    let tagged = asm.label();
    let looks_at_frame = program.ops().zip(&reachable).any(|(op, &reached)| reached && depends_on_tag(op));
    if looks_at_frame {
        asm.emit(Insn::load32(Reg::R1, PACKET, SKB_VLAN_PRESENT));
        asm.jump(Jump::If32(Test::NotEqual, Reg::R1, 0), tagged);
    }
    body(&mut asm, program, &reachable, &Tag::InFrame, reject);
    let metadata = looks_at_frame.then(|| {
        asm.bind(tagged);
        let start = asm.len();
        asm.emit(Insn::load32(TAG, PACKET, SKB_VLAN_PROTO));
        asm.emit(Insn::big_endian(TAG, 16));
        asm.emit(Insn::alu64(Alu::Lsh, TAG, 16));
        asm.emit(Insn::load32(Reg::R1, PACKET, SKB_VLAN_TCI));
        asm.emit(Insn::alu(Alu::And, Reg::R1, 0xffff));
        asm.emit(Insn::alu_reg(Alu::Or, TAG, Reg::R1));
        body(&mut asm, program, &reachable, &Tag::InMetadata, reject);
        start
    });
    if asm.is_used(reject) {
        asm.bind(reject);
        asm.emit(Insn::set(A, 0));
        asm.emit(Insn::EXIT);
    }

    let too_long = |instructions| FilterError::ProgramTooLong { instructions, limit };
    let instructions = asm.len();
    let code = asm.finish().map_err(|_| too_long(instructions))?;
    if code.len() > limit {
        return Err(too_long(code.len()));
    }
    Ok(Translation { code, metadata })
}

/// Clears what the program may read before it writes it.
fn clear(asm: &mut Assembler, program: &ClassicProgram, reachable: &[bool]) {
    asm.emit(Insn::set(A, 0));
    asm.emit(Insn::set(X, 0));
    let mut read = [false; MEMORY_WORDS as usize];
    for (op, _) in program.ops().zip(reachable).filter(|&(_, &reached)| reached) {
        if let Op::LoadMemory(k) | Op::IndexMemory(k) = op {
            read[k as usize] = true;
        }
    }
    for k in (0..MEMORY_WORDS).filter(|&k| read[k as usize]) {
        asm.emit(Insn::store32_constant(Reg::R10, memory(k), 0));
    }
}

/// Offset of M[k] on the stack: in half a slot, for the reason of `loads::forget`.
fn memory(k: u32) -> i16 {
    (k * 8) as i16 - (MEMORY_WORDS * 8) as i16 + 4
}

fn depends_on_tag(op: Op) -> bool {
    match op {
        Op::LoadAbsolute(size, k) => loads::depends_on_tag(k, size),
        Op::IndexHeaderLength(k) => loads::depends_on_tag(k, Size::Byte),
        Op::LoadIndirect(..) | Op::LoadLength | Op::IndexLength => true,
        _ => false,
    }
}

/// Which instructions can run at all: the kernel refuses programs with others. Jumps go forward only, so one pass does.
fn reachable(program: &ClassicProgram) -> Vec<bool> {
    let mut reachable = vec![false; program.instructions().len()];
    reachable[0] = true;
    for (index, op) in program.ops().enumerate() {
        if !reachable[index] {
            continue;
        }
        match op {
            Op::ReturnConstant(_) | Op::ReturnA => {}
            _ if loads::never_succeeds(op) => {}
            Op::Jump(skip) => reachable[index + 1 + skip as usize] = true,
            Op::Branch(_, _, jt, jf) => {
                reachable[index + 1 + usize::from(jt)] = true;
                reachable[index + 1 + usize::from(jf)] = true;
            }
            _ => reachable[index + 1] = true,
        }
    }
    reachable
}

/// The program once; every path ends in what ends it, or a jump to `reject`.
fn body(
    asm: &mut Assembler,
    program: &ClassicProgram,
    reachable: &[bool],
    loads: &impl Loads,
    reject: Label,
) {
    let labels: Vec<Label> = program.instructions().iter().map(|_| asm.label()).collect();
    for (index, op) in program.ops().enumerate() {
        if !reachable[index] {
            continue;
        }
        asm.bind(labels[index]);
        match op {
            _ if loads::never_succeeds(op) => asm.jump(Jump::Always, reject),
            Op::LoadAbsolute(size, k) => loads.absolute(asm, size, k),
            Op::LoadIndirect(size, k) => loads.indirect(asm, size, k, reject),
            Op::IndexHeaderLength(k) => loads.header_length(asm, k),
            Op::LoadLength => loads.length(asm, A),
            Op::IndexLength => loads.length(asm, X),
            Op::LoadConstant(k) => asm.emit(Insn::set(A, k)),
            Op::IndexConstant(k) => asm.emit(Insn::set(X, k)),
            Op::LoadMemory(k) => asm.emit(Insn::load32(A, Reg::R10, memory(k))),
            Op::IndexMemory(k) => asm.emit(Insn::load32(X, Reg::R10, memory(k))),
            Op::Store(k) => asm.emit(Insn::store32(Reg::R10, memory(k), A)),
            Op::StoreIndex(k) => asm.emit(Insn::store32(Reg::R10, memory(k), X)),
            Op::Alu(alu, operand) => arithmetic(asm, alu, operand, reject),
            Op::Negate => asm.emit(Insn::negate(A)),
            Op::Tax => asm.emit(Insn::copy(X, A)),
            Op::Txa => asm.emit(Insn::copy(A, X)),
            Op::Jump(0) => {}
            Op::Jump(skip) => asm.jump(Jump::Always, labels[index + 1 + skip as usize]),
            Op::Branch(condition, operand, jt, jf) => {
                branch(asm, condition, operand, |skip| labels[index + 1 + usize::from(skip)], jt, jf);
            }
            Op::ReturnConstant(k) => {
                asm.emit(Insn::set(A, k));
                loads.end(asm);
            }
            Op::ReturnA => loads.end(asm),
        }
    }
}

fn arithmetic(asm: &mut Assembler, alu: Alu, operand: Operand, reject: Label) {
    let shift = matches!(alu, Alu::Lsh | Alu::Rsh);
    match operand {
        Operand::K(k) if shift && k >= 32 => asm.emit(Insn::set(A, 0)),
        Operand::K(k) => asm.emit(Insn::alu(alu, A, k)),
        // eBPF takes the shift's lowest 5 bits.
        Operand::X if shift => {
            let (fits, done) = (asm.label(), asm.label());
            asm.jump(Jump::If32(Test::Less, X, 32), fits);
            asm.emit(Insn::set(A, 0));
            asm.jump(Jump::Always, done);
            asm.bind(fits);
            asm.emit(Insn::alu_reg(alu, A, X));
            asm.bind(done);
        }
        Operand::X => {
            if matches!(alu, Alu::Div | Alu::Mod) {
                asm.jump(Jump::If32(Test::Equal, X, 0), reject);
            }
            asm.emit(Insn::alu_reg(alu, A, X));
        }
    }
}

fn branch(
    asm: &mut Assembler,
    condition: Condition,
    operand: Operand,
    target: impl Fn(u8) -> Label,
    jt: u8,
    jf: u8,
) {
    let jump = |test| match operand {
        Operand::K(k) => Jump::If32(test, A, k),
        Operand::X => Jump::If32Reg(test, A, X),
    };
    let test = Test::from(condition);
    match (jt, jf, test.opposite()) {
        (0, 0, _) => {}
        (0, _, Some(opposite)) => asm.jump(jump(opposite), target(jf)),
        (_, 0, _) => asm.jump(jump(test), target(jt)),
        _ => {
            asm.jump(jump(test), target(jt));
            asm.jump(Jump::Always, target(jf));
        }
    }
}

#[cfg(test)]
mod tests;
