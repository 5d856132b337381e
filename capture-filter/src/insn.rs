//! eBPF instructions: only those that a translated filter is made of.
//!
//! Encoding and meaning: Documentation/bpf/standardization/instruction-set.rst of the kernel.

mod listing;

pub use listing::Listing;

use crate::classic::{Alu, Condition, Size};

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "r0 to r10 have no other names")]
#[repr(u8)]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// One instruction (`struct bpf_insn`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insn {
    /// Class, size, mode and operation.
    pub code: u8,
    /// Destination register.
    pub dst: u8,
    /// Source register.
    pub src: u8,
    /// Offset of a jump or a memory access.
    pub off: i16,
    /// The constant.
    pub imm: i32,
}

/// Size of an instruction in bytes.
pub const INSN_BYTES: usize = 8;

/// Byte order of the machine that runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endian {
    /// bpfel.
    Little,
    /// bpfeb.
    Big,
}

impl Endian {
    /// That of this machine.
    pub const NATIVE: Endian = if cfg!(target_endian = "big") { Endian::Big } else { Endian::Little };
}

impl Insn {
    /// `goto +0`: what padding is made of.
    pub const NOP: Insn = Insn { code: 0x05, dst: 0, src: 0, off: 0, imm: 0 };
    /// `exit`.
    pub const EXIT: Insn = Insn { code: 0x95, dst: 0, src: 0, off: 0, imm: 0 };

    const fn new(code: u8, dst: Reg, src: Reg, off: i16, imm: i32) -> Insn {
        Insn { code, dst: dst as u8, src: src as u8, off, imm }
    }

    /// 32 bits: `dst = imm`; the upper half becomes 0.
    pub const fn set(dst: Reg, imm: u32) -> Insn {
        Insn::new(0xb4, dst, Reg::R0, 0, imm.cast_signed())
    }

    /// 32 bits: `dst = src`; the upper half becomes 0.
    pub const fn copy(dst: Reg, src: Reg) -> Insn {
        Insn::new(0xbc, dst, src, 0, 0)
    }

    /// 64 bits: `dst = src`.
    pub const fn copy64(dst: Reg, src: Reg) -> Insn {
        Insn::new(0xbf, dst, src, 0, 0)
    }

    /// 32 bits: `dst = dst op imm`.
    pub const fn alu(alu: Alu, dst: Reg, imm: u32) -> Insn {
        Insn::new(alu_bits(alu) | 0x04, dst, Reg::R0, 0, imm.cast_signed())
    }

    /// 32 bits: `dst = dst op src`.
    pub const fn alu_reg(alu: Alu, dst: Reg, src: Reg) -> Insn {
        Insn::new(alu_bits(alu) | 0x0c, dst, src, 0, 0)
    }

    /// 64 bits: `dst = dst op imm`, the constant with its sign.
    pub const fn alu64(alu: Alu, dst: Reg, imm: i32) -> Insn {
        Insn::new(alu_bits(alu) | 0x07, dst, Reg::R0, 0, imm)
    }

    /// 32 bits: `dst = -dst`.
    pub const fn negate(dst: Reg) -> Insn {
        Insn::new(0x84, dst, Reg::R0, 0, 0)
    }

    /// 64 bits: `dst = dst op src`.
    pub const fn alu64_reg(alu: Alu, dst: Reg, src: Reg) -> Insn {
        Insn::new(alu_bits(alu) | 0x0f, dst, src, 0, 0)
    }

    /// The lower 16, 32 or 64 bits as a big-endian number, the rest 0.
    pub const fn big_endian(dst: Reg, bits: i32) -> Insn {
        Insn::new(0xdc, dst, Reg::R0, 0, bits)
    }

    /// `dst = ` a number of that size at `src + off`, in the machine's byte order.
    pub const fn load(size: Size, dst: Reg, src: Reg, off: i16) -> Insn {
        Insn::new(0x61 | size_bits(size), dst, src, off, 0)
    }

    /// `dst = *(u32 *)(src + off)`.
    pub const fn load32(dst: Reg, src: Reg, off: i16) -> Insn {
        Insn::new(0x61, dst, src, off, 0)
    }

    /// `dst = *(u64 *)(src + off)`.
    pub const fn load64(dst: Reg, src: Reg, off: i16) -> Insn {
        Insn::new(0x79, dst, src, off, 0)
    }

    /// `*(u32 *)(dst + off) = src`.
    pub const fn store32(dst: Reg, off: i16, src: Reg) -> Insn {
        Insn::new(0x63, dst, src, off, 0)
    }

    /// `*(u64 *)(dst + off) = src`.
    pub const fn store64(dst: Reg, off: i16, src: Reg) -> Insn {
        Insn::new(0x7b, dst, src, off, 0)
    }

    /// `*(u32 *)(dst + off) = imm`.
    pub const fn store32_constant(dst: Reg, off: i16, imm: i32) -> Insn {
        Insn::new(0x62, dst, Reg::R0, off, imm)
    }

    /// `r0 = the packet's bytes at offset`, big-endian; needs the packet in r6, destroys r1 to r5, and ends the (sub)program
    /// with 0 when the bytes are not there. The offset must not be negative.
    pub const fn packet(size: Size, offset: i32) -> Insn {
        Insn::new(0x20 | size_bits(size), Reg::R0, Reg::R0, 0, offset)
    }

    /// As [`Insn::packet`], at the offset in `src`, which must fit an `i32` and not be negative.
    pub const fn packet_at(size: Size, src: Reg) -> Insn {
        Insn::new(0x40 | size_bits(size), Reg::R0, src, 0, 0)
    }

    /// True when `off` says where this may jump.
    pub const fn is_jump(self) -> bool {
        // Classes JMP and JMP32, without calls and exits.
        matches!(self.code & 0x07, 0x05 | 0x06) && !matches!(self.code, 0x85 | 0x95)
    }

    /// The instruction's 8 bytes.
    pub fn to_bytes(self, endian: Endian) -> [u8; INSN_BYTES] {
        let (registers, off, imm) = match endian {
            Endian::Little => (self.src << 4 | self.dst, self.off.to_le_bytes(), self.imm.to_le_bytes()),
            Endian::Big => (self.dst << 4 | self.src, self.off.to_be_bytes(), self.imm.to_be_bytes()),
        };
        let mut bytes = [0; INSN_BYTES];
        bytes[0] = self.code;
        bytes[1] = registers;
        bytes[2..4].copy_from_slice(&off);
        bytes[4..].copy_from_slice(&imm);
        bytes
    }
}

/// A jump that still wants its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// Always.
    Always,
    /// When a 32-bit comparison with a constant holds.
    If32(Test, Reg, u32),
    /// When a 32-bit comparison of two registers holds.
    If32Reg(Test, Reg, Reg),
    /// When a 64-bit comparison with a constant (with its sign) holds.
    If64(Test, Reg, i32),
    /// When a 64-bit comparison of two registers holds.
    If64Reg(Test, Reg, Reg),
}

/// Unsigned comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "comparisons are named as usual")]
pub enum Test {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    AnyBit,
}

impl Jump {
    /// The instruction that skips `off` others.
    pub const fn insn(self, off: i16) -> Insn {
        match self {
            Jump::Always => Insn::new(0x05, Reg::R0, Reg::R0, off, 0),
            Jump::If32(test, dst, k) => Insn::new(test_bits(test) | 0x06, dst, Reg::R0, off, k.cast_signed()),
            Jump::If32Reg(test, dst, src) => Insn::new(test_bits(test) | 0x0e, dst, src, off, 0),
            Jump::If64(test, dst, imm) => Insn::new(test_bits(test) | 0x05, dst, Reg::R0, off, imm),
            Jump::If64Reg(test, dst, src) => Insn::new(test_bits(test) | 0x0d, dst, src, off, 0),
        }
    }
}

impl From<Condition> for Test {
    fn from(condition: Condition) -> Test {
        match condition {
            Condition::Equal => Test::Equal,
            Condition::Greater => Test::Greater,
            Condition::GreaterOrEqual => Test::GreaterOrEqual,
            Condition::AnyBit => Test::AnyBit,
        }
    }
}

impl Test {
    /// The test that holds exactly when this one does not, where there is one.
    pub const fn opposite(self) -> Option<Test> {
        match self {
            Test::Equal => Some(Test::NotEqual),
            Test::NotEqual => Some(Test::Equal),
            Test::Greater => Some(Test::LessOrEqual),
            Test::LessOrEqual => Some(Test::Greater),
            Test::GreaterOrEqual => Some(Test::Less),
            Test::Less => Some(Test::GreaterOrEqual),
            Test::AnyBit => None,
        }
    }
}

const fn alu_bits(alu: Alu) -> u8 {
    match alu {
        Alu::Add => 0x00,
        Alu::Sub => 0x10,
        Alu::Mul => 0x20,
        Alu::Div => 0x30,
        Alu::Or => 0x40,
        Alu::And => 0x50,
        Alu::Lsh => 0x60,
        Alu::Rsh => 0x70,
        Alu::Mod => 0x90,
        Alu::Xor => 0xa0,
    }
}

const fn test_bits(test: Test) -> u8 {
    match test {
        Test::Equal => 0x10,
        Test::Greater => 0x20,
        Test::GreaterOrEqual => 0x30,
        Test::AnyBit => 0x40,
        Test::NotEqual => 0x50,
        Test::Less => 0xa0,
        Test::LessOrEqual => 0xb0,
    }
}

const fn size_bits(size: Size) -> u8 {
    match size {
        Size::Word => 0x00,
        Size::Half => 0x08,
        Size::Byte => 0x10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_the_instruction_set_in_both_byte_orders() {
        let insn = Jump::If32(Test::NotEqual, Reg::R0, 0x0800).insn(0x1234);
        assert_eq!(insn.to_bytes(Endian::Little), [0x56, 0x00, 0x34, 0x12, 0x00, 0x08, 0, 0]);
        assert_eq!(insn.to_bytes(Endian::Big), [0x56, 0x00, 0x12, 0x34, 0, 0, 0x08, 0x00]);
        let insn = Insn::load32(Reg::R8, Reg::R6, 28);
        assert_eq!(insn.to_bytes(Endian::Little), [0x61, 0x68, 28, 0, 0, 0, 0, 0]);
        assert_eq!(insn.to_bytes(Endian::Big), [0x61, 0x86, 0, 28, 0, 0, 0, 0]);
    }

    #[test]
    fn listing_reads_like_bpftool() {
        let code = [
            Insn::packet(Size::Half, 12),
            Jump::If32(Test::NotEqual, Reg::R0, 0x86dd).insn(1),
            Insn::alu(Alu::And, Reg::R0, 0x1fff),
            Insn::set(Reg::R0, u32::MAX),
            Insn::load32(Reg::R0, Reg::R10, -64),
            Insn::EXIT,
        ];
        let expected = "(000) r0 = *(u16 *)skb[12]\n(001) if w0 != 0x86dd goto 3\n(002) w0 &= 0x1fff\n\
                        (003) w0 = 4294967295\n(004) r0 = *(u32 *)(r10 -64)\n(005) exit\n";
        assert_eq!(Listing(&code).to_string(), expected);
    }
}
