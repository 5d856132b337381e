//! Programs as tcpdump lists them.

use std::fmt;

use super::{Alu, ClassicProgram, Condition, Op, Operand, Size};

/// The listing of `tcpdump -d`.
impl fmt::Display for ClassicProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, op) in self.ops().enumerate() {
            let (name, operand) = listing(index, op);
            match op {
                Op::Branch(_, _, jt, jf) => {
                    let (jt, jf) = (index + 1 + usize::from(jt), index + 1 + usize::from(jf));
                    writeln!(f, "({index:03}) {name:<8} {operand:<16} jt {jt}\tjf {jf}")?;
                }
                _ => writeln!(f, "({index:03}) {name:<8} {operand}")?,
            }
        }
        Ok(())
    }
}

fn listing(index: usize, op: Op) -> (&'static str, String) {
    let load = |size| match size {
        Size::Word => "ld",
        Size::Half => "ldh",
        Size::Byte => "ldb",
    };
    match op {
        Op::LoadAbsolute(size, k) => (load(size), format!("[{k}]")),
        Op::LoadIndirect(size, k) => (load(size), format!("[x + {k}]")),
        Op::LoadLength => ("ld", "#pktlen".to_owned()),
        Op::LoadConstant(k) => ("ld", format!("#{k:#x}")),
        Op::LoadMemory(k) => ("ld", format!("M[{k}]")),
        Op::IndexConstant(k) => ("ldx", format!("#{k:#x}")),
        Op::IndexMemory(k) => ("ldx", format!("M[{k}]")),
        Op::IndexLength => ("ldx", "#pktlen".to_owned()),
        Op::IndexHeaderLength(k) => ("ldxb", format!("4*([{k}]&0xf)")),
        Op::Store(k) => ("st", format!("M[{k}]")),
        Op::StoreIndex(k) => ("stx", format!("M[{k}]")),
        Op::Alu(alu, operand) => {
            let name = match alu {
                Alu::Add => "add",
                Alu::Sub => "sub",
                Alu::Mul => "mul",
                Alu::Div => "div",
                Alu::Or => "or",
                Alu::And => "and",
                Alu::Lsh => "lsh",
                Alu::Rsh => "rsh",
                Alu::Mod => "mod",
                Alu::Xor => "xor",
            };
            let operand = match (operand, alu) {
                (Operand::X, _) => "x".to_owned(),
                (Operand::K(k), Alu::Or | Alu::And | Alu::Xor) => format!("#{k:#x}"),
                (Operand::K(k), _) => format!("#{k}"),
            };
            (name, operand)
        }
        Op::Negate => ("neg", String::new()),
        Op::Jump(k) => ("ja", format!("{}", index + 1 + k as usize)),
        Op::Branch(condition, operand, _, _) => {
            let name = match condition {
                Condition::Equal => "jeq",
                Condition::Greater => "jgt",
                Condition::GreaterOrEqual => "jge",
                Condition::AnyBit => "jset",
            };
            let operand = match operand {
                Operand::X => "x".to_owned(),
                Operand::K(k) => format!("#{k:#x}"),
            };
            (name, operand)
        }
        Op::ReturnConstant(k) => ("ret", format!("#{k}")),
        Op::ReturnA => ("ret", String::new()),
        Op::Tax => ("tax", String::new()),
        Op::Txa => ("txa", String::new()),
    }
}
