//! Loads that try a packet's linear part first, for tc programs.
//!
//! `LD_ABS` and `LD_IND` are calls into the kernel, some 8 ns each. A tc program may also look at the packet's linear
//! part by itself, which costs 1 ns; socket filters may not. So before each such load come a few instructions that try
//! this, and skip the load if the bytes were there.

use super::{PACKET, Translation};
use crate::classic::Alu;
use crate::insn::{Insn, Jump, Reg, Test};

// Fields of struct __sk_buff (include/uapi/linux/bpf.h), by offset: where the linear part begins and ends.
const SKB_DATA: i16 = 76;
const SKB_DATA_END: i16 = 80;

/// Beyond this a load is left as it is: an instruction has 16 bits for an offset, and packets' linear parts end before.
const FARTHEST: i32 = 0x7000;

// Registers that a load destroys. An indirect load's offset is always in r1.
const A: Reg = Reg::R0;
const DATA: Reg = Reg::R1;
const OFFSET: Reg = Reg::R1;
const DATA_END: Reg = Reg::R2;
const FROM: Reg = Reg::R3;
const TO: Reg = Reg::R4;

/// The same translation with direct loads, or `None` if it becomes too long for its jumps.
pub(super) fn with_direct_loads(translation: &Translation) -> Option<Translation> {
    let code = &translation.code;
    let mut expanded = Vec::with_capacity(code.len() * 4);
    // Where each instruction's replacement begins.
    let mut places = Vec::with_capacity(code.len() + 1);
    for insn in code {
        places.push(expanded.len());
        attempt(insn, &mut expanded);
        expanded.push(*insn);
    }
    places.push(expanded.len());
    for (index, insn) in code.iter().enumerate().filter(|(_, insn)| insn.is_jump()) {
        // Nothing is put in front of a jump, so it is at its place.
        let from = *places.get(index)?;
        let to = *places.get((index + 1).checked_add_signed(insn.off.into())?)?;
        expanded.get_mut(from)?.off = i16::try_from(to as isize - from as isize - 1).ok()?;
    }
    let metadata = translation.metadata.and_then(|index| places.get(index).copied());
    Some(Translation { code: expanded, metadata })
}

/// Adds what comes before a load, if this is one: the same bytes, read directly, and a jump behind it.
fn attempt(insn: &Insn, to: &mut Vec<Insn>) {
    let Some((size, indirect)) = insn.packet_load() else { return };
    let bytes = size.bytes().cast_signed();
    // Instructions from the comparison with the end to the load, without the two.
    let rest = 2 + i16::from(bytes > 1);
    if !indirect && (0..FARTHEST).contains(&insn.imm) {
        to.push(Insn::load32(DATA, PACKET, SKB_DATA));
        to.push(Insn::load32(DATA_END, PACKET, SKB_DATA_END));
        to.push(Insn::copy64(FROM, DATA));
        to.push(Insn::alu64(Alu::Add, FROM, insn.imm + bytes));
        to.push(Jump::If64Reg(Test::Greater, FROM, DATA_END).insn(rest));
        to.push(Insn::load(size, A, DATA, insn.imm as i16));
    } else if indirect && insn.src == OFFSET as u8 {
        to.push(Jump::If64(Test::Greater, OFFSET, FARTHEST).insn(6 + rest));
        to.push(Insn::load32(FROM, PACKET, SKB_DATA));
        to.push(Insn::load32(DATA_END, PACKET, SKB_DATA_END));
        to.push(Insn::alu64_reg(Alu::Add, FROM, OFFSET));
        to.push(Insn::copy64(TO, FROM));
        to.push(Insn::alu64(Alu::Add, TO, bytes));
        to.push(Jump::If64Reg(Test::Greater, TO, DATA_END).insn(rest));
        to.push(Insn::load(size, A, FROM, 0));
    } else {
        return;
    }
    if bytes > 1 {
        to.push(Insn::big_endian(A, bytes * 8));
    }
    to.push(Jump::Always.insn(1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classic::Size;
    use crate::insn::Listing;
    use crate::translate::Flavour;

    fn direct(code: Vec<Insn>) -> Option<Translation> {
        with_direct_loads(&Translation { code, metadata: None })
    }

    fn listing(code: Vec<Insn>) -> String {
        Listing(&direct(code).expect("short enough").code).to_string()
    }

    #[test]
    fn jumps_still_lead_where_they_did() {
        let code =
            vec![Jump::If32(Test::Equal, Reg::R0, 0).insn(1), Insn::packet(Size::Byte, 23), Insn::EXIT];
        let expected = "\
(000) if w0 == 0x0 goto 9
(001) r1 = *(u32 *)(r6 +76)
(002) r2 = *(u32 *)(r6 +80)
(003) r3 = r1
(004) r3 += 24
(005) if r3 > r2 goto 8
(006) r0 = *(u8 *)(r1 +23)
(007) goto 9
(008) r0 = *(u8 *)skb[23]
(009) exit
";
        assert_eq!(listing(code), expected);
    }

    #[test]
    fn a_jump_to_a_load_leads_to_what_comes_before_it_and_both_failures_to_the_load() {
        let code = vec![Insn::NOP, Insn::packet_at(Size::Half, OFFSET), Insn::EXIT];
        let expected = "\
(000) goto 1
(001) if r1 > 0x7000 goto 11
(002) r3 = *(u32 *)(r6 +76)
(003) r2 = *(u32 *)(r6 +80)
(004) r3 += r1
(005) r4 = r3
(006) r4 += 2
(007) if r4 > r2 goto 11
(008) r0 = *(u16 *)(r3 +0)
(009) r0 = be16 r0
(010) goto 12
(011) r0 = *(u16 *)skb[r1]
(012) exit
";
        assert_eq!(listing(code), expected);
    }

    #[test]
    fn the_part_for_tags_in_metadata_is_found_again() {
        let code = vec![Insn::packet(Size::Word, 0), Insn::EXIT, Insn::packet(Size::Word, 4), Insn::EXIT];
        let translation = with_direct_loads(&Translation { code, metadata: Some(2) }).unwrap();
        assert_eq!(translation.metadata, Some(10));
        assert_eq!(translation.code[9..11], [Insn::EXIT, Insn::load32(DATA, PACKET, SKB_DATA)]);
    }

    #[test]
    fn far_loads_stay_as_they_are() {
        assert_eq!(direct(vec![Insn::packet(Size::Word, FARTHEST), Insn::EXIT]).unwrap().code.len(), 2);
    }

    #[test]
    fn code_that_gets_too_long_is_left_to_the_portable_flavour() {
        let mut code = vec![Jump::Always.insn(8000)];
        code.extend(vec![Insn::packet(Size::Word, 0); 8000]);
        code.push(Insn::EXIT);
        let portable = Translation { code, metadata: None };
        assert!(with_direct_loads(&portable).is_none());
        assert_eq!(*portable.flavour(Flavour::Direct), portable);
    }
}
