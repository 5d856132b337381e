//! Classic BPF programs: what libpcap makes of an expression.
//!
//! A program that comes from outside (the compiler's child) is believed in nothing: [`ClassicProgram::new`] checks it
//! whole, so that whatever holds one may index and translate it without looking again.

mod listing;

use crate::FilterError;

/// Most instructions of a program, as in the kernel (`BPF_MAXINSNS`, include/uapi/linux/bpf_common.h).
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Words of scratch memory, `M[0]` to `M[15]` (`BPF_MEMWORDS`).
pub const MEMORY_WORDS: u32 = 16;
/// From this offset on a load means the kernel's ancillary data (`SKF_AD_OFF`, include/uapi/linux/filter.h).
const ANCILLARY: u32 = 0xffff_f000;
/// Size of an instruction in bytes, as [`ClassicProgram::to_bytes`] lays it out.
const INSTRUCTION_BYTES: usize = 8;

/// One instruction (`struct sock_filter`, Documentation/networking/filter.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClassicInsn {
    /// Class, size, mode and operation.
    pub code: u16,
    /// Instructions to skip when a condition holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The constant: offset, value, or length.
    pub k: u32,
}

/// How many bytes a load takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// 4 bytes.
    Word,
    /// 2 bytes.
    Half,
    /// 1 byte.
    Byte,
}

impl Size {
    /// Number of bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Size::Word => 4,
            Size::Half => 2,
            Size::Byte => 1,
        }
    }
}

/// Arithmetic on the accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the instruction set say it")]
pub enum Alu {
    Add,
    Sub,
    Mul,
    Div,
    Or,
    And,
    Lsh,
    Rsh,
    Mod,
    Xor,
}

/// What a conditional jump asks about the accumulator; comparisons are unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Equal.
    Equal,
    /// Greater.
    Greater,
    /// Greater or equal.
    GreaterOrEqual,
    /// Any common bit.
    AnyBit,
}

/// Second operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand {
    /// The constant.
    K(u32),
    /// The index register.
    X,
}

/// An instruction by meaning. `A` is the accumulator, `X` the index register, `M` the scratch memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A = the frame's bytes at this offset; a load past the end ends the program with 0.
    LoadAbsolute(Size, u32),
    /// A = the frame's bytes at X + this offset, added without wrapping.
    LoadIndirect(Size, u32),
    /// A = length of the frame.
    LoadLength,
    /// A = constant.
    LoadConstant(u32),
    /// A = M[].
    LoadMemory(u32),
    /// X = constant.
    IndexConstant(u32),
    /// X = M[].
    IndexMemory(u32),
    /// X = length of the frame.
    IndexLength,
    /// X = 4 * (byte at this offset & 15): the length of an IPv4 header.
    IndexHeaderLength(u32),
    /// M[] = A.
    Store(u32),
    /// M[] = X.
    StoreIndex(u32),
    /// A = A op operand. A division by zero ends the program with 0; a shift by 32 or more gives 0.
    Alu(Alu, Operand),
    /// A = -A.
    Negate,
    /// Skip this many instructions.
    Jump(u32),
    /// Skip the first or second number of instructions.
    Branch(Condition, Operand, u8, u8),
    /// End with a constant.
    ReturnConstant(u32),
    /// End with A.
    ReturnA,
    /// X = A.
    Tax,
    /// A = X.
    Txa,
}

impl ClassicInsn {
    /// The meaning of the instruction; `None` if it has none.
    pub fn decode(self) -> Option<Op> {
        let k = self.k;
        let operand = if self.code & 0x08 == 0 { Operand::K(k) } else { Operand::X };
        let branch = |condition| Some(Op::Branch(condition, operand, self.jt, self.jf));
        let alu = |alu| Some(Op::Alu(alu, operand));
        match self.code {
            0x20 => Some(Op::LoadAbsolute(Size::Word, k)),
            0x28 => Some(Op::LoadAbsolute(Size::Half, k)),
            0x30 => Some(Op::LoadAbsolute(Size::Byte, k)),
            0x40 => Some(Op::LoadIndirect(Size::Word, k)),
            0x48 => Some(Op::LoadIndirect(Size::Half, k)),
            0x50 => Some(Op::LoadIndirect(Size::Byte, k)),
            0x80 => Some(Op::LoadLength),
            0x00 => Some(Op::LoadConstant(k)),
            0x60 => Some(Op::LoadMemory(k)),
            0x01 => Some(Op::IndexConstant(k)),
            0x61 => Some(Op::IndexMemory(k)),
            0x81 => Some(Op::IndexLength),
            0xb1 => Some(Op::IndexHeaderLength(k)),
            0x02 => Some(Op::Store(k)),
            0x03 => Some(Op::StoreIndex(k)),
            0x04 | 0x0c => alu(Alu::Add),
            0x14 | 0x1c => alu(Alu::Sub),
            0x24 | 0x2c => alu(Alu::Mul),
            0x34 | 0x3c => alu(Alu::Div),
            0x44 | 0x4c => alu(Alu::Or),
            0x54 | 0x5c => alu(Alu::And),
            0x64 | 0x6c => alu(Alu::Lsh),
            0x74 | 0x7c => alu(Alu::Rsh),
            0x94 | 0x9c => alu(Alu::Mod),
            0xa4 | 0xac => alu(Alu::Xor),
            0x84 => Some(Op::Negate),
            0x05 => Some(Op::Jump(k)),
            0x15 | 0x1d => branch(Condition::Equal),
            0x25 | 0x2d => branch(Condition::Greater),
            0x35 | 0x3d => branch(Condition::GreaterOrEqual),
            0x45 | 0x4d => branch(Condition::AnyBit),
            0x06 => Some(Op::ReturnConstant(k)),
            0x16 => Some(Op::ReturnA),
            0x07 => Some(Op::Tax),
            0x87 => Some(Op::Txa),
            _ => None,
        }
    }
}

/// A checked program: known instructions only, jumps forward and inside, offsets in the frame, a return at the end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClassicProgram(Vec<ClassicInsn>);

impl ClassicProgram {
    /// Checks a program.
    ///
    /// # Errors
    /// [`FilterError::ProgramTooLong`], [`FilterError::Loop`], [`FilterError::Ancillary`] or [`FilterError::Invalid`].
    pub fn new(instructions: Vec<ClassicInsn>) -> Result<Self, FilterError> {
        if instructions.len() > MAX_INSTRUCTIONS {
            return Err(FilterError::ProgramTooLong {
                instructions: instructions.len(),
                limit: MAX_INSTRUCTIONS,
            });
        }
        let last = instructions
            .len()
            .checked_sub(1)
            .ok_or(FilterError::Invalid { index: 0, what: "it is empty" })?;
        for (index, insn) in instructions.iter().enumerate() {
            check_one(index, *insn, last)?;
        }
        if !matches!(instructions[last].decode(), Some(Op::ReturnConstant(_) | Op::ReturnA)) {
            return Err(FilterError::Invalid { index: last, what: "it does not end in a return" });
        }
        Ok(Self(instructions))
    }

    /// The instructions.
    pub fn instructions(&self) -> &[ClassicInsn] {
        &self.0
    }

    /// The instructions by meaning, in order.
    pub fn ops(&self) -> impl ExactSizeIterator<Item = Op> + '_ {
        // Every instruction was decoded by `new`; a return of nothing stands in for what cannot be.
        self.0.iter().map(|insn| insn.decode().unwrap_or(Op::ReturnConstant(0)))
    }

    /// As bytes, see [`encode`].
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(&self.0)
    }

    /// Reads and checks what [`ClassicProgram::to_bytes`] wrote, believing nothing.
    ///
    /// # Errors
    /// As [`ClassicProgram::new`], and [`FilterError::Invalid`] when the bytes are not whole instructions.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FilterError> {
        let (whole, rest) = bytes.as_chunks::<INSTRUCTION_BYTES>();
        if !rest.is_empty() {
            return Err(FilterError::Invalid { index: whole.len(), what: "it is cut off" });
        }
        let read = |&[c0, c1, jt, jf, k0, k1, k2, k3]: &[u8; INSTRUCTION_BYTES]| ClassicInsn {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        };
        Self::new(whole.iter().map(read).collect())
    }
}

/// Instructions as bytes: 8 each, `code`, `jt`, `jf`, `k`, little-endian.
pub fn encode(instructions: &[ClassicInsn]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(instructions.len() * INSTRUCTION_BYTES);
    for insn in instructions {
        bytes.extend_from_slice(&insn.code.to_le_bytes());
        bytes.extend_from_slice(&[insn.jt, insn.jf]);
        bytes.extend_from_slice(&insn.k.to_le_bytes());
    }
    bytes
}

fn check_one(index: usize, insn: ClassicInsn, last: usize) -> Result<(), FilterError> {
    let invalid = |what| Err(FilterError::Invalid { index, what });
    let inside = |skip: u32| skip as usize <= last && index + 1 + skip as usize <= last;
    match insn.decode() {
        None => invalid("it is no known instruction"),
        Some(Op::LoadAbsolute(_, k) | Op::LoadIndirect(_, k) | Op::IndexHeaderLength(k))
            if k >= ANCILLARY =>
        {
            Err(FilterError::Ancillary { index, offset: k })
        }
        Some(Op::LoadMemory(k) | Op::IndexMemory(k) | Op::Store(k) | Op::StoreIndex(k))
            if k >= MEMORY_WORDS =>
        {
            invalid("it uses memory that does not exist")
        }
        Some(Op::Alu(Alu::Div | Alu::Mod, Operand::K(0))) => invalid("it divides by zero"),
        // libpcap's backward jumps are negative numbers.
        Some(Op::Jump(k)) if k > i32::MAX as u32 => Err(FilterError::Loop { index }),
        Some(Op::Jump(k)) if !inside(k) => invalid("it jumps out of the program"),
        Some(Op::Branch(_, _, jt, jf)) if !inside(jt.into()) || !inside(jf.into()) => {
            invalid("it jumps out of the program")
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u16, jt: u8, jf: u8, k: u32) -> ClassicInsn {
        ClassicInsn { code, jt, jf, k }
    }
    const RETURN: ClassicInsn = ClassicInsn { code: 0x06, jt: 0, jf: 0, k: 1 };

    #[test]
    fn a_program_survives_its_bytes() {
        let program =
            ClassicProgram::new(vec![insn(0x28, 0, 0, 12), insn(0x15, 0, 1, 0x800), RETURN, RETURN]).unwrap();
        assert_eq!(program.to_bytes()[..16], [0x28, 0, 0, 0, 12, 0, 0, 0, 0x15, 0, 0, 1, 0, 8, 0, 0]);
        assert_eq!(ClassicProgram::from_bytes(&program.to_bytes()), Ok(program));
    }

    #[test]
    fn what_no_honest_compiler_sends_is_refused() {
        let invalid = |program: Vec<ClassicInsn>| match ClassicProgram::new(program) {
            Err(FilterError::Invalid { what, .. }) => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(invalid(vec![]), "it is empty");
        assert_eq!(invalid(vec![insn(0x28, 0, 0, 12)]), "it does not end in a return");
        assert_eq!(invalid(vec![insn(0x15, 0, 1, 0), RETURN]), "it jumps out of the program");
        assert_eq!(invalid(vec![insn(0x15, 1, 0, 0), RETURN]), "it jumps out of the program");
        assert_eq!(invalid(vec![insn(0x05, 0, 0, 1), RETURN]), "it jumps out of the program");
        assert_eq!(invalid(vec![insn(0x05, 0, 0, 0x7fff_ffff), RETURN]), "it jumps out of the program");
        assert_eq!(invalid(vec![insn(0x60, 0, 0, 16), RETURN]), "it uses memory that does not exist");
        assert_eq!(invalid(vec![insn(0x02, 0, 0, u32::MAX), RETURN]), "it uses memory that does not exist");
        assert_eq!(invalid(vec![insn(0x34, 0, 0, 0), RETURN]), "it divides by zero");
        assert_eq!(invalid(vec![insn(0x94, 0, 0, 0), RETURN]), "it divides by zero");
        for code in [0xffff, 0x0128, 0x38, 0x85, 0x08, 0x0e, 0xb0, 0xa1] {
            assert_eq!(invalid(vec![insn(code, 0, 0, 0), RETURN]), "it is no known instruction", "{code:#x}");
        }
        assert!(matches!(ClassicProgram::from_bytes(&[0; 9]), Err(FilterError::Invalid { .. })));
        assert!(matches!(ClassicProgram::new(vec![RETURN; 4097]), Err(FilterError::ProgramTooLong { .. })));
    }

    #[test]
    fn loops_and_ancillary_loads_are_refused() {
        let looping = ClassicProgram::new(vec![RETURN, insn(0x05, 0, 0, -2i32 as u32), RETURN]);
        assert_eq!(looping, Err(FilterError::Loop { index: 1 }));
        for code in [0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1] {
            let ancillary = ClassicProgram::new(vec![insn(code, 0, 0, 0xffff_f004), RETURN]);
            assert_eq!(ancillary, Err(FilterError::Ancillary { index: 0, offset: 0xffff_f004 }), "{code:#x}");
        }
    }
}
