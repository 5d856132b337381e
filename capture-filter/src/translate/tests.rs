//! Golden listings; that translations are right is shown by the kernel, in the tests that need it.

use super::*;
use crate::insn::Listing;
use crate::{ClassicInsn, compile};

fn insn(code: u16, jt: u8, jf: u8, k: u32) -> ClassicInsn {
    ClassicInsn { code, jt, jf, k }
}

fn code(program: Vec<ClassicInsn>) -> String {
    let program = ClassicProgram::new(program).expect("a valid program");
    Listing(&translate(&program, MAX_CODE).expect("a translation").code).to_string()
}

#[test]
fn icmp_twice_once_for_each_place_of_a_tag() {
    let translation = translate(&compile("icmp").unwrap(), MAX_CODE).unwrap();
    let expected = "\
(000) r6 = r1
(001) w0 = 0
(002) w7 = 0
(003) r1 = *(u32 *)(r6 +20)
(004) if w1 != 0x0 goto 13
(005) r0 = *(u16 *)skb[12]
(006) if w0 != 0x800 goto 11
(007) r0 = *(u8 *)skb[23]
(008) if w0 != 0x1 goto 11
(009) w0 = 65535
(010) exit
(011) w0 = 0
(012) exit
(013) r8 = *(u32 *)(r6 +28)
(014) r8 = be16 r8
(015) r8 <<= 16
(016) r1 = *(u32 *)(r6 +24)
(017) w1 &= 0xffff
(018) w8 |= w1
(019) w0 = w8
(020) w0 >>= 16
(021) w0 &= 0xffff
(022) if w0 != 0x800 goto 27
(023) r0 = *(u8 *)skb[19]
(024) if w0 != 0x1 goto 27
(025) w0 = 65535
(026) exit
(027) w0 = 0
(028) exit
";
    assert_eq!(Listing(&translation.code).to_string(), expected);
    assert_eq!(translation.metadata, Some(13));
}

#[test]
fn what_looks_only_at_addresses_is_translated_once() {
    for expression in ["", "ether host 02:00:00:00:00:01"] {
        let translation = translate(&compile(expression).unwrap(), MAX_CODE).unwrap();
        assert_eq!(translation.metadata, None, "{expression}");
    }
}

#[test]
fn a_load_across_the_edge_of_the_tag_is_put_together_from_bytes() {
    let listing = code(vec![insn(0x20, 0, 0, 10), insn(0x16, 0, 0, 0)]);
    let (_, metadata) = listing.split_once("(013)").expect("a second part");
    let expected = " w9 = 0
(014) r0 = *(u8 *)skb[10]
(015) w9 <<= 8
(016) w9 |= w0
(017) r0 = *(u8 *)skb[11]
(018) w9 <<= 8
(019) w9 |= w0
(020) w0 = w8
(021) w0 >>= 24
(022) w0 &= 0xff
(023) w9 <<= 8
(024) w9 |= w0
(025) w0 = w8
(026) w0 >>= 16
(027) w0 &= 0xff
(028) w9 <<= 8
(029) w9 |= w0
(030) w0 = w9
(031) exit
";
    assert_eq!(metadata, expected);
}

#[test]
fn offsets_never_reach_the_kernels_own_data() {
    // A load at -1 when seen as a signed number, from either end.
    let listing = code(vec![insn(0x28, 0, 0, 0xffff_efff), insn(0x16, 0, 0, 0)]);
    assert!(!listing.contains("skb["), "{listing}");
    let listing = code(vec![insn(0x01, 0, 0, 0xffff_f000), insn(0x48, 0, 0, 14), insn(0x16, 0, 0, 0)]);
    assert!(listing.contains("r1 += 14\n(009) if r1 > 0x7fffffff goto"), "{listing}");
}

#[test]
fn memory_is_cleared_where_it_is_read() {
    let listing = code(vec![insn(0x60, 0, 0, 3), insn(0x02, 0, 0, 4), insn(0x16, 0, 0, 0)]);
    let expected = "(000) r6 = r1\n(001) w0 = 0\n(002) w7 = 0\n(003) *(u32 *)(r10 -100) = 0\n\
                    (004) r0 = *(u32 *)(r10 -100)\n(005) *(u32 *)(r10 -92) = r0\n(006) exit\n";
    assert_eq!(listing, expected);
}

#[test]
fn unreachable_instructions_are_left_out() {
    let listing = code(vec![insn(0x05, 0, 0, 1), insn(0x20, 0, 0, 0), insn(0x06, 0, 0, 7)]);
    assert!(!listing.contains("skb["), "{listing}");
}

#[test]
fn division_by_zero_and_wide_shifts_follow_classic_rules() {
    let divide = code(vec![insn(0x3c, 0, 0, 0), insn(0x16, 0, 0, 0)]);
    assert!(
        divide.contains("(003) if w7 == 0x0 goto 6\n(004) w0 /= w7\n(005) exit\n(006) w0 = 0\n(007) exit"),
        "{divide}"
    );
    let shift = code(vec![insn(0x64, 0, 0, 32), insn(0x16, 0, 0, 0)]);
    assert!(shift.contains("(003) w0 = 0\n(004) exit"), "{shift}");
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let program = compile("tcp port 80").unwrap();
    let needed = translate(&program, MAX_CODE).unwrap().code.len();
    assert!(translate(&program, needed).is_ok());
    let error = translate(&program, needed - 1).unwrap_err();
    assert_eq!(error, FilterError::ProgramTooLong { instructions: needed, limit: needed - 1 });
}

fn fast(expression: &str, stack: u16) -> Option<String> {
    fast_path(&compile(expression).unwrap(), stack).map(|code| Listing(&code).to_string())
}

#[test]
fn the_fast_path_reads_by_itself_and_leaves_the_rest_to_the_call() {
    // 18 is the call, 19 what is behind it.
    let expected = "\
(000) r2 = *(u32 *)(r1 +20)
(001) if w2 != 0x0 goto 18
(002) r3 = *(u32 *)(r1 +76)
(003) r4 = *(u32 *)(r1 +80)
(004) r2 = r3
(005) r2 += 24
(006) if r2 > r4 goto 18
(007) w0 = 0
(008) w5 = 0
(009) r0 = *(u16 *)(r3 +12)
(010) r0 = be16 r0
(011) if w0 != 0x800 goto 16
(012) r0 = *(u8 *)(r3 +23)
(013) if w0 != 0x1 goto 16
(014) w0 = 65535
(015) goto 19
(016) w0 = 0
(017) goto 19
";
    assert_eq!(fast("icmp", 0).unwrap(), expected);
}

#[test]
fn the_fast_path_uses_the_stack_below_that_of_the_program() {
    let expected = "\
(000) r2 = *(u32 *)(r1 +20)
(001) if w2 != 0x0 goto 41
(002) r3 = *(u32 *)(r1 +76)
(003) r4 = *(u32 *)(r1 +80)
(004) r2 = r3
(005) r2 += 24
(006) if r2 > r4 goto 41
(007) w0 = 0
(008) w5 = 0
(009) r0 = *(u16 *)(r3 +12)
(010) r0 = be16 r0
(011) if w0 != 0x86dd goto 18
(012) r2 = r3
(013) r2 += 69
(014) if r2 > r4 goto 41
(015) r0 = *(u8 *)(r2 -1)
(016) if w0 == 0x1 goto 37
(017) goto 39
(018) if w0 != 0x800 goto 39
(019) r0 = *(u8 *)(r3 +23)
(020) if w0 != 0x6 goto 39
(021) r0 = *(u16 *)(r3 +20)
(022) r0 = be16 r0
(023) if w0 & 0x1fff goto 39
(024) r5 = *(u8 *)(r3 +14)
(025) w5 &= 0xf
(026) w5 <<= 2
(027) *(u32 *)(r10 -164) = r5
(028) r2 = *(u32 *)(r10 -164)
(029) r2 += 27
(030) if r2 > 0x7000 goto 41
(031) r2 += r3
(032) r2 += 2
(033) if r2 > r4 goto 41
(034) r0 = *(u16 *)(r2 -2)
(035) r0 = be16 r0
(036) if w0 != 0x2 goto 39
(037) w0 = 65535
(038) goto 42
(039) w0 = 0
(040) goto 42
";
    assert_eq!(fast("ip6[54] = 1 or tcp[13:2] = 2", 24).unwrap(), expected);
}

#[test]
fn there_is_no_fast_path_where_the_call_is_all_there_is() {
    assert_eq!(fast("", 0), None, "nothing to look at");
    assert_eq!(fast("ether[30000] = 1", 0), None, "beyond every linear part");
    let mut long = vec![insn(0x30, 0, 0, 100); 1100];
    long.push(insn(0x06, 0, 0, 1));
    assert_eq!(fast_path(&ClassicProgram::new(long).expect("a valid program"), 0), None, "too long");
}
