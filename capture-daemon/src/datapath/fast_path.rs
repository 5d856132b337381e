//! Puts a filter's fast path into a program, before the call of the filter.

use aya_obj::{Function, generated::bpf_insn};
use capture_filter::{Filter, insn::Insn};

use super::{DatapathError, object::invalid, sys};

/// `BPF_JMP | BPF_CALL`
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL`: a function of the same program; `imm` says where, as a jump's offset does.
const PSEUDO_CALL: u8 = 1;
/// `BPF_ALU64 | BPF_ADD | BPF_K`
const ADD: u8 = 0x07;
/// `BPF_REG_10`, the frame pointer.
const FRAME: u8 = 10;
/// `MAX_BPF_STACK`
const MAX_STACK: i32 = 512;

/// In a linked program, before its call of the filter, a function of type `type_id`. Leaves it alone if the filter has no
/// fast path.
pub(super) fn insert(program: &mut Function, type_id: u32, filter: &Filter) -> Result<(), DatapathError> {
    let functions = &program.func_info.func_info;
    let start = functions.iter().find(|info| info.type_id == type_id).map(|info| info.insn_off as usize);
    // The functions that it calls stand behind it.
    let starts = functions.iter().map(|info| info.insn_off as usize);
    let end = starts.filter(|start| *start > 0).min().unwrap_or(program.instructions.len());
    let main = &program.instructions[..end];
    let mut calls = main.iter().enumerate().map(|(at, insn)| call_target(at, insn));
    let at = calls.position(|callee| callee.is_some() && callee == start);
    let at = at.ok_or_else(|| invalid("no call of the filter"))?;
    let Some(fast) = filter.fast_path(stack(main)) else { return Ok(()) };
    let fast = sys::instructions(&fast)?;

    // What is at the call or behind moves; but who jumps to the call goes through the fast path.
    let place = |index: usize| index + if index >= at { fast.len() } else { 0 };
    let target = |index: usize| index + if index > at { fast.len() } else { 0 };
    for (index, insn) in program.instructions.iter_mut().enumerate() {
        let distance = |to: usize| target(to) as i64 - place(index) as i64 - 1;
        if let Some(to) = call_target(index, insn) {
            insn.imm = i32::try_from(distance(to)).map_err(invalid)?;
        } else if let Some(to) = jump_target(index, insn) {
            insn.off = i16::try_from(distance(to)).map_err(invalid)?;
        }
    }
    for info in &mut program.func_info.func_info {
        info.insn_off = place(info.insn_off as usize) as u32;
    }
    for info in &mut program.line_info.line_info {
        info.insn_off = place(info.insn_off as usize) as u32;
    }
    program.instructions.splice(at..at, fast);
    Ok(())
}

/// Where the function begins that this calls, if it is such a call.
fn call_target(at: usize, insn: &bpf_insn) -> Option<usize> {
    let is_call = insn.code == CALL && insn.src_reg() == PSEUDO_CALL;
    is_call.then(|| (at + 1).checked_add_signed(insn.imm as isize)).flatten()
}

/// Where this may jump, if it is a jump. None goes so far that its offset has more than 16 bits.
fn jump_target(at: usize, insn: &bpf_insn) -> Option<usize> {
    let is_jump = Insn { code: insn.code, ..Insn::NOP }.is_jump();
    is_jump.then(|| (at + 1).checked_add_signed(insn.off.into())).flatten()
}

/// Bytes below the frame pointer that a function uses, or more: whatever is subtracted may be from a copy of that pointer.
fn stack(function: &[bpf_insn]) -> u16 {
    let depth = |insn: &bpf_insn| match insn.code & 7 {
        // BPF_LDX, then BPF_ST and BPF_STX
        1 if insn.src_reg() == FRAME => -i32::from(insn.off),
        2 | 3 if insn.dst_reg() == FRAME => -i32::from(insn.off),
        _ if insn.code == ADD && insn.imm >= -MAX_STACK => -insn.imm,
        _ => 0,
    };
    let deepest = function.iter().map(depth).max().unwrap_or(0);
    u16::try_from(deepest).unwrap_or(0).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use capture_filter::{
        classic::Alu,
        insn::{Insn, Reg},
    };

    use super::*;

    fn depth(code: &[Insn]) -> u16 {
        stack(&sys::instructions(code).expect("whole instructions"))
    }

    #[test]
    fn every_way_to_use_the_stack_is_seen() {
        let (frame, other) = (Reg::R10, Reg::R2);
        assert_eq!(depth(&[Insn::load64(other, Reg::R1, 80), Insn::EXIT]), 0);
        assert_eq!(depth(&[Insn::store64(frame, -24, other), Insn::store32(frame, -8, other)]), 24);
        assert_eq!(depth(&[Insn::store32_constant(frame, -36, 0)]), 40, "in whole words");
        assert_eq!(depth(&[Insn::load64(other, frame, -64)]), 64);
        assert_eq!(depth(&[Insn::copy64(other, frame), Insn::alu64(Alu::Add, other, -48)]), 48);
        assert_eq!(depth(&[Insn::alu64(Alu::Add, other, -4096)]), 0, "beyond every stack");
    }
}
