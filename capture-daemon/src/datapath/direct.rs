//! Lets a filter read a packet's bytes where they are, in tc programs.
//!
//! `LD_ABS` and `LD_IND` are calls into the kernel, some 8 ns each. A tc program may also look at the packet's linear
//! part by itself, which costs 1 ns; socket filters may not. So before each such load come a few instructions that try
//! this, and skip the load if the bytes were there.

use aya_obj::generated::bpf_insn;

/// Instructions of this class jump (64-bit and 32-bit comparisons), unless they call or exit.
const JUMP: u8 = 0x05;
const JUMP32: u8 = 0x06;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

// Offsets in struct __sk_buff (include/uapi/linux/bpf.h).
const SKB_DATA: i16 = 76;
const SKB_DATA_END: i16 = 80;

/// Beyond this a load is left as it is: an instruction has 16 bits for an offset, and packets' linear parts end before.
const FARTHEST: i32 = 0x7000;

/// The register that holds an indirect load's offset in what `capture-filter` writes.
const OFFSET: u8 = 1;
/// The register that holds the packet.
const PACKET: u8 = 6;

/// The same code with direct loads, or `None` if it becomes too long for its jumps.
pub(super) fn with_direct_loads(code: &[bpf_insn]) -> Option<Vec<bpf_insn>> {
    let mut expanded = Vec::with_capacity(code.len() * 4);
    // Where each instruction's replacement begins.
    let mut places = Vec::with_capacity(code.len() + 1);
    for insn in code {
        places.push(expanded.len());
        attempt(insn, &mut expanded);
        expanded.push(*insn);
    }
    places.push(expanded.len());
    for (index, insn) in code.iter().enumerate() {
        let jumps = matches!(insn.code & 0x07, JUMP | JUMP32) && !matches!(insn.code, CALL | EXIT);
        if jumps {
            // Nothing is put in front of a jump, so it is at its place.
            let from = *places.get(index)?;
            let to = *places.get((index + 1).checked_add_signed(isize::from(insn.off))?)?;
            expanded.get_mut(from)?.off = i16::try_from(to as isize - from as isize - 1).ok()?;
        }
    }
    Some(expanded)
}

/// Adds what comes before a load, if this is one: the same bytes, read directly, and a jump behind it.
fn attempt(insn: &bpf_insn, to: &mut Vec<bpf_insn>) {
    let Some((bytes, load)) = size(insn.code) else { return };
    match insn.code & 0xe0 {
        // LD_ABS
        0x20 if (0..FARTHEST).contains(&insn.imm) => {
            to.push(make(0x61, 1, PACKET, SKB_DATA, 0));
            to.push(make(0x61, 2, PACKET, SKB_DATA_END, 0));
            to.push(make(0xbf, 3, 1, 0, 0));
            to.push(make(0x07, 3, 0, 0, insn.imm + bytes));
            to.push(make(0x2d, 3, 2, 2 + i16::from(bytes > 1), 0));
            to.push(make(load, 0, 1, insn.imm as i16, 0));
        }
        // LD_IND
        0x40 if insn.src_reg() == OFFSET => {
            to.push(make(0x25, OFFSET, 0, 8 + i16::from(bytes > 1), FARTHEST));
            to.push(make(0x61, 3, PACKET, SKB_DATA, 0));
            to.push(make(0x61, 2, PACKET, SKB_DATA_END, 0));
            to.push(make(0x0f, 3, OFFSET, 0, 0));
            to.push(make(0xbf, 4, 3, 0, 0));
            to.push(make(0x07, 4, 0, 0, bytes));
            to.push(make(0x2d, 4, 2, 2 + i16::from(bytes > 1), 0));
            to.push(make(load, 0, 3, 0, 0));
        }
        _ => return,
    }
    if bytes > 1 {
        // In the network's order.
        to.push(make(0xdc, 0, 0, 0, bytes * 8));
    }
    to.push(make(0x05, 0, 0, 1, 0));
}

/// Bytes that a packet load reads, and the opcode of a memory load of that size.
fn size(code: u8) -> Option<(i32, u8)> {
    match code {
        0x20 | 0x40 => Some((4, 0x61)),
        0x28 | 0x48 => Some((2, 0x69)),
        0x30 | 0x50 => Some((1, 0x71)),
        _ => None,
    }
}

/// An instruction.
pub(super) fn make(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    let mut insn =
        bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(dst, src), off, imm };
    insn.set_dst_reg(dst);
    insn
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(code: &[bpf_insn]) -> Vec<(u8, i16)> {
        code.iter().map(|insn| (insn.code, insn.off)).collect()
    }

    #[test]
    fn jumps_still_lead_where_they_did() {
        // if w0 == 0 goto 2; r0 = u8[23]; exit
        let code = [make(0x16, 0, 0, 1, 0), make(0x30, 0, 0, 0, 23), make(EXIT, 0, 0, 0, 0)];
        let expanded = with_direct_loads(&code).unwrap();
        assert_eq!(
            codes(&expanded),
            [
                (0x16, 8),
                (0x61, 76),
                (0x61, 80),
                (0xbf, 0),
                (0x07, 0),
                (0x2d, 2),
                (0x71, 23),
                (0x05, 1),
                (0x30, 0),
                (EXIT, 0)
            ]
        );
    }

    #[test]
    fn a_jump_to_a_load_leads_to_what_comes_before_it() {
        let code = [make(0x05, 0, 0, 0, 0), make(0x48, 0, OFFSET, 0, 0), make(EXIT, 0, 0, 0, 0)];
        let expanded = with_direct_loads(&code).unwrap();
        assert_eq!(codes(&expanded)[..2], [(0x05, 0), (0x25, 9)]);
        // Both failures lead to the load, success behind it.
        assert_eq!(codes(&expanded)[7], (0x2d, 3));
        assert_eq!(codes(&expanded)[10..], [(0x05, 1), (0x48, 0), (EXIT, 0)]);
    }

    #[test]
    fn far_loads_stay_as_they_are() {
        let code = [make(0x20, 0, 0, 0, FARTHEST), make(EXIT, 0, 0, 0, 0)];
        assert_eq!(with_direct_loads(&code).unwrap().len(), 2);
    }

    #[test]
    fn code_that_gets_too_long_is_refused() {
        let mut code = vec![make(0x05, 0, 0, 8000, 0)];
        code.extend(vec![make(0x20, 0, 0, 0, 0); 8000]);
        code.push(make(EXIT, 0, 0, 0, 0));
        assert!(with_direct_loads(&code).is_none());
    }
}
