//! On objects written here: a section with a function before, the room, and a function behind.

use object::write::{Object as Writer, Relocation, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, RelocationEncoding, RelocationFlags, RelocationKind, SectionKind,
    SymbolFlags, SymbolKind, SymbolScope,
};

use super::*;
use crate::compile;

const NEIGHBOUR: [u8; 16] = [0xb4, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

fn written(room: usize, endianness: Endianness, relocation_at: Option<u64>) -> Vec<u8> {
    let mut writer = Writer::new(BinaryFormat::Elf, Architecture::Bpf, endianness);
    let section = writer.add_section(Vec::new(), b".text".to_vec(), SectionKind::Text);
    let body = Insn::NOP.to_bytes(Endian::Little).repeat(room);
    for (name, data) in [("before", &NEIGHBOUR[..]), (SYMBOL, &body), ("behind", &NEIGHBOUR)] {
        let symbol = writer.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: 0,
            size: 0,
            kind: SymbolKind::Text,
            scope: SymbolScope::Dynamic,
            weak: false,
            section: SymbolSection::Undefined,
            flags: SymbolFlags::None,
        });
        writer.add_symbol_data(symbol, section, data, 8);
        if let Some(offset) = relocation_at.filter(|_| name == "behind") {
            let flags = RelocationFlags::Generic {
                kind: RelocationKind::Absolute,
                encoding: RelocationEncoding::Generic,
                size: 64,
            };
            writer
                .add_relocation(section, Relocation { offset, symbol, addend: 0, flags })
                .expect("a relocation");
        }
    }
    writer.write().expect("an object")
}

fn filter(expression: &str) -> Filter {
    Filter::from_classic(expression, compile(expression).expect(expression)).expect(expression)
}

fn text(object: &[u8]) -> Vec<u8> {
    let file = object::File::parse(object).expect("an object");
    file.section_by_name(".text").expect("a section").data().expect("its bytes").to_vec()
}

#[test]
fn the_function_is_overwritten_and_nothing_else() {
    let filter = filter("icmp");
    for (endianness, endian) in [(Endianness::Little, Endian::Little), (Endianness::Big, Endian::Big)] {
        let before = written(256, endianness, None);
        let mut after = before.clone();
        splice(&mut after, &filter).expect("room enough");
        let changed = text(&after);
        assert_eq!(changed.len(), NEIGHBOUR.len() * 2 + 256 * 8);
        assert_eq!(changed[..16], NEIGHBOUR);
        assert_eq!(changed[16 + 256 * 8..], NEIGHBOUR);

        let code: Vec<u8> = filter.translation().code.iter().flat_map(|insn| insn.to_bytes(endian)).collect();
        let body = &changed[16..16 + 256 * 8];
        let padding = 256 - 2 - code.len() / 8;
        assert_eq!(body[..8], Insn::set(Reg::R0, 0).to_bytes(endian));
        assert_eq!(body[8..16], Jump::If32(Test::Equal, Reg::R0, 0).insn(padding as i16).to_bytes(endian));
        assert_eq!(body[16..16 + padding * 8], Insn::NOP.to_bytes(endian).repeat(padding));
        assert!(body.ends_with(&code));

        let differing = before.iter().zip(&after).filter(|(old, new)| old != new).count();
        assert!(differing <= 2 * 8 + code.len(), "{differing} bytes differ");
    }
}

#[test]
fn a_second_filter_replaces_the_first_whole() {
    let mut twice = written(256, Endianness::Little, None);
    let mut once = twice.clone();
    splice(&mut twice, &filter("tcp port 80 or udp port 53")).expect("room enough");
    splice(&mut twice, &filter("arp")).expect("room enough");
    splice(&mut once, &filter("arp")).expect("room enough");
    assert!(twice == once);
}

#[test]
fn objects_that_do_not_fit_stay_as_they_are() {
    let filter = filter("tcp port 80");
    let needed = filter.translation().code.len() + 2;
    splice(&mut written(needed, Endianness::Little, None), &filter).expect("exactly enough room");
    let mut small = written(needed - 1, Endianness::Little, None);
    let unchanged = small.clone();
    match splice(&mut small, &filter) {
        Err(SpliceError::Room { needed: n, room }) => assert_eq!((n, room), (needed, needed - 1)),
        other => panic!("{other:?}"),
    }
    assert!(small == unchanged);

    let inside = 16 + 8;
    let mut calling = written(256, Endianness::Little, Some(inside));
    assert!(matches!(
        splice(&mut calling, &filter),
        Err(SpliceError::Function("it refers to other functions"))
    ));
    assert!(matches!(splice(&mut b"no object".to_vec(), &filter), Err(SpliceError::Object(_))));
}
