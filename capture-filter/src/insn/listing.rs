//! Programs as bpftool lists them.

use std::fmt;

use super::Insn;

/// A program as a listing in the notation of LLVM and bpftool, with absolute jump targets.
pub struct Listing<'a>(pub &'a [Insn]);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, insn) in self.0.iter().enumerate() {
            write!(f, "({index:03}) ")?;
            insn.list(index, f)?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Insn {
    fn list(self, index: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Insn { code, dst, src, off, imm } = self;
        let width = match code & 0x18 {
            0x00 => "u32",
            0x08 => "u16",
            0x10 => "u8",
            _ => "u64",
        };
        let target = index as i64 + 1 + i64::from(off);
        let from_register = code & 0x08 != 0;
        match code & 0x07 {
            0x00 if code & 0xe0 == 0x20 => write!(f, "r0 = *({width} *)skb[{imm}]"),
            0x00 if code & 0xe0 == 0x40 => write!(f, "r0 = *({width} *)skb[r{src}]"),
            0x01 => write!(f, "r{dst} = *({width} *)(r{src} {off:+})"),
            0x02 => write!(f, "*({width} *)(r{dst} {off:+}) = {imm}"),
            0x03 => write!(f, "*({width} *)(r{dst} {off:+}) = r{src}"),
            0x04 if code == 0x84 => write!(f, "w{dst} = -w{dst}"),
            0x04 if code == 0xdc => write!(f, "r{dst} = be{imm} r{dst}"),
            class @ (0x04 | 0x07) => {
                let (letter, value) =
                    if class == 0x04 { ("w", i64::from(imm.cast_unsigned())) } else { ("r", imm.into()) };
                write!(f, "{letter}{dst} {} ", alu_sign(code))?;
                match (from_register, code & 0xf0) {
                    (true, _) => write!(f, "{letter}{src}"),
                    (false, 0x40 | 0x50 | 0xa0) if value >= 0 => write!(f, "{value:#x}"),
                    (false, _) => write!(f, "{value}"),
                }
            }
            0x05 if code == 0x05 => write!(f, "goto {target}"),
            0x05 if code == 0x95 => write!(f, "exit"),
            class @ (0x05 | 0x06) => {
                let letter = if class == 0x06 { "w" } else { "r" };
                write!(f, "if {letter}{dst} {} ", test_sign(code))?;
                match from_register {
                    true => write!(f, "{letter}{src}")?,
                    false => write!(f, "{imm:#x}")?,
                }
                write!(f, " goto {target}")
            }
            _ => write!(f, "? {code:#04x}"),
        }
    }
}

fn alu_sign(code: u8) -> &'static str {
    match code & 0xf0 {
        0x00 => "+=",
        0x10 => "-=",
        0x20 => "*=",
        0x30 => "/=",
        0x40 => "|=",
        0x50 => "&=",
        0x60 => "<<=",
        0x70 => ">>=",
        0x90 => "%=",
        0xa0 => "^=",
        _ => "=",
    }
}

fn test_sign(code: u8) -> &'static str {
    match code & 0xf0 {
        0x10 => "==",
        0x20 => ">",
        0x30 => ">=",
        0x40 => "&",
        0x50 => "!=",
        0xa0 => "<",
        _ => "<=",
    }
}
