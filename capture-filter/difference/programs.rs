//! Classic programs that no expression becomes, and what they mean: for the corners that libpcap's compiler leaves out.

use capture_filter::classic::{Alu, Condition, MEMORY_WORDS, Op, Operand, Size};
use capture_filter::{ClassicInsn, ClassicProgram};

use super::random::Random;

/// Codes of all instructions but jumps and returns.
const STRAIGHT: &[u16] = &[
    0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x01, 0x61, 0x81, 0xb1, 0x02, 0x03, 0x04, 0x0c,
    0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0x94, 0x9c, 0xa4,
    0xac, 0x84, 0x07, 0x87,
];
const BRANCHES: &[u16] = &[0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d];
const NUMBERS: &[u32] =
    &[0, 1, 2, 7, 31, 32, 33, 0xff, 0x8100, 0x7fff_ffff, 0x8000_0000, 0xffff_efff, u32::MAX];

/// A valid program of at most 40 instructions, whose answer hangs on one bit of A.
pub(crate) fn generate(random: &mut Random) -> ClassicProgram {
    let length = 3 + random.below(36);
    let mut program: Vec<ClassicInsn> = (0..length)
        .map(|index| {
            let left = length - index;
            match random.below(8) {
                0 | 1 => {
                    let (jt, jf) = (random.below(left.min(6)) as u8, random.below(left.min(6)) as u8);
                    ClassicInsn { code: random.pick(BRANCHES), jt, jf, k: random.pick(NUMBERS) }
                }
                2 if random.once_in(6) => {
                    ClassicInsn { code: 0x05, jt: 0, jf: 0, k: random.below(left.min(4)) as u32 }
                }
                3 if random.once_in(12) => {
                    ClassicInsn { code: 0x06, jt: 0, jf: 0, k: random.below(2) as u32 }
                }
                _ => straight(random),
            }
        })
        .collect();
    program.push(ClassicInsn { code: 0x54, jt: 0, jf: 0, k: 1 << random.below(32) });
    program.push(ClassicInsn { code: 0x16, jt: 0, jf: 0, k: 0 });
    ClassicProgram::new(program).expect("a valid program")
}

fn straight(random: &mut Random) -> ClassicInsn {
    let code = random.pick(STRAIGHT);
    let k = match code {
        // Around the tag, mostly; seldom where no frame is.
        0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0xb1 if random.once_in(30) => random.pick(&NUMBERS[..12]),
        0x20 | 0x28 | 0x30 | 0x40 | 0x48 | 0x50 | 0xb1 => random.below(24) as u32,
        0x60 | 0x61 | 0x02 | 0x03 => random.below(MEMORY_WORDS as usize) as u32,
        0x34 | 0x94 => 1 + random.below(9) as u32,
        // An index that stays in the frame.
        0x01 => random.below(20) as u32,
        _ => random.pick(NUMBERS),
    };
    ClassicInsn { code, jt: 0, jf: 0, k }
}

/// What a program returns for a frame, by the rules of Documentation/networking/filter.rst with memory that begins as 0.
pub(crate) fn interpret(program: &ClassicProgram, frame: &[u8]) -> u32 {
    let ops: Vec<Op> = program.ops().collect();
    let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; MEMORY_WORDS as usize], 0);
    let load = |size: Size, offset: u64| {
        let offset = usize::try_from(offset).ok()?;
        let bytes = frame.get(offset..offset.checked_add(size.bytes() as usize)?)?;
        Some(bytes.iter().fold(0u32, |number, &byte| number << 8 | u32::from(byte)))
    };
    let value = |operand, x| match operand {
        Operand::K(k) => k,
        Operand::X => x,
    };
    loop {
        let op = ops[at];
        at += 1;
        let loaded = match op {
            Op::LoadAbsolute(size, k) => load(size, k.into()),
            Op::LoadIndirect(size, k) => load(size, u64::from(x) + u64::from(k)),
            Op::IndexHeaderLength(k) => load(Size::Byte, k.into()),
            _ => Some(0),
        };
        let Some(loaded) = loaded else { return 0 };
        match op {
            Op::LoadAbsolute(..) | Op::LoadIndirect(..) => a = loaded,
            Op::IndexHeaderLength(_) => x = (loaded & 0xf) * 4,
            Op::LoadLength => a = frame.len() as u32,
            Op::IndexLength => x = frame.len() as u32,
            Op::LoadConstant(k) => a = k,
            Op::IndexConstant(k) => x = k,
            Op::LoadMemory(k) => a = memory[k as usize],
            Op::IndexMemory(k) => x = memory[k as usize],
            Op::Store(k) => memory[k as usize] = a,
            Op::StoreIndex(k) => memory[k as usize] = x,
            Op::Alu(alu, operand) => match arithmetic(alu, a, value(operand, x)) {
                Some(result) => a = result,
                None => return 0,
            },
            Op::Negate => a = a.wrapping_neg(),
            Op::Tax => x = a,
            Op::Txa => a = x,
            Op::Jump(skip) => at += skip as usize,
            Op::Branch(condition, operand, jt, jf) => {
                let other = value(operand, x);
                let holds = match condition {
                    Condition::Equal => a == other,
                    Condition::Greater => a > other,
                    Condition::GreaterOrEqual => a >= other,
                    Condition::AnyBit => a & other != 0,
                };
                at += usize::from(if holds { jt } else { jf });
            }
            Op::ReturnConstant(k) => return k,
            Op::ReturnA => return a,
        }
    }
}

fn arithmetic(alu: Alu, a: u32, b: u32) -> Option<u32> {
    Some(match alu {
        Alu::Add => a.wrapping_add(b),
        Alu::Sub => a.wrapping_sub(b),
        Alu::Mul => a.wrapping_mul(b),
        Alu::Div => a.checked_div(b)?,
        Alu::Mod => a.checked_rem(b)?,
        Alu::Or => a | b,
        Alu::And => a & b,
        Alu::Xor => a ^ b,
        Alu::Lsh => a.checked_shl(b).unwrap_or(0),
        Alu::Rsh => a.checked_shr(b).unwrap_or(0),
    })
}
