//! Loads from the frame, with the tag in it or beside it.
//!
//! With the tag beside it, the frame is thought of as it would be with the tag inside: bytes below 12 (the addresses) are
//! where they are, bytes 12 to 15 are the tag, and everything after them is found 4 bytes earlier.

use super::{A, FORGETFUL_SLOT, OFFSET_SLOT, PACKET, SCRATCH, SKB_LEN, TAG, TAG_BYTES, Tag, X};
use crate::assembler::{Assembler, Label};
use crate::classic::{Alu, Op, Size};
use crate::insn::{Insn, Jump, Reg, Test};

/// Where the tag begins in the frame: behind both addresses.
const TAG_START: u32 = 12;
/// Where it ends.
const TAG_END: u32 = TAG_START + TAG_BYTES;

/// True for a load that no frame is long enough for. The kernel takes such offsets for other data (`SKF_NET_OFF`,
/// `SKF_LL_OFF`), so they must never get there.
pub(super) fn never_succeeds(op: Op) -> bool {
    matches!(op, Op::LoadAbsolute(_, k) | Op::LoadIndirect(_, k) | Op::IndexHeaderLength(k) if k > i32::MAX as u32)
}

/// False for the addresses, which are before any tag.
pub(super) fn depends_on_tag(k: u32, size: Size) -> bool {
    k.saturating_add(size.bytes()) > TAG_START
}

/// How a program's body reads a packet, and how it ends.
pub(super) trait Loads {
    /// A = the bytes at `k`.
    fn absolute(&self, asm: &mut Assembler, size: Size, k: u32);
    /// A = the bytes at X + `k`.
    fn indirect(&self, asm: &mut Assembler, size: Size, k: u32, reject: Label);
    /// X = 4 * (the byte at `k` & 15), A as it was.
    fn header_length(&self, asm: &mut Assembler, k: u32);
    /// The frame's length.
    fn length(&self, asm: &mut Assembler, to: Reg);
    /// The verdict is in A.
    fn end(&self, asm: &mut Assembler);
}

/// The kernel reads, and ends the function when the bytes are not there.
impl Loads for Tag {
    fn absolute(&self, asm: &mut Assembler, size: Size, k: u32) {
        absolute(asm, size, k, *self);
    }

    fn indirect(&self, asm: &mut Assembler, size: Size, k: u32, reject: Label) {
        indirect(asm, size, k, *self, reject);
    }

    fn header_length(&self, asm: &mut Assembler, k: u32) {
        asm.emit(Insn::copy(SCRATCH, A));
        absolute(asm, Size::Byte, k, *self);
        asm.emit(Insn::alu(Alu::And, A, 0xf));
        asm.emit(Insn::alu(Alu::Lsh, A, 2));
        asm.emit(Insn::copy(X, A));
        asm.emit(Insn::copy(A, SCRATCH));
    }

    fn length(&self, asm: &mut Assembler, to: Reg) {
        asm.emit(Insn::load32(to, PACKET, SKB_LEN));
        if *self == Tag::InMetadata {
            asm.emit(Insn::alu(Alu::Add, to, TAG_BYTES));
        }
    }

    fn end(&self, asm: &mut Assembler) {
        asm.emit(Insn::EXIT);
    }
}

fn absolute(asm: &mut Assembler, size: Size, k: u32, tag: Tag) {
    match place(k, size.bytes(), tag) {
        Place::Frame(offset) => asm.emit(packet(size, offset)),
        Place::Tag(shift) => {
            asm.emit(Insn::copy(A, TAG));
            tag_bytes(asm, shift, size);
        }
        Place::Both => {
            asm.emit(Insn::set(SCRATCH, 0));
            for byte in k..k + size.bytes() {
                absolute(asm, Size::Byte, byte, tag);
                append(asm);
            }
            asm.emit(Insn::copy(A, SCRATCH));
        }
    }
}

fn indirect(asm: &mut Assembler, size: Size, k: u32, tag: Tag, reject: Label) {
    let offset = Reg::R1;
    // Both are below 2^32, so 64 bits do not wrap; what is beyond an i32 is beyond every frame.
    forget(asm, offset, X);
    if k > 0 {
        asm.emit(Insn::alu64(Alu::Add, offset, k.cast_signed()));
    }
    asm.jump(Jump::If64(Test::Greater, offset, i32::MAX), reject);
    if tag == Tag::InFrame {
        return asm.emit(Insn::packet_at(size, offset));
    }
    if k >= TAG_END {
        asm.emit(Insn::alu64(Alu::Sub, offset, TAG_BYTES.cast_signed()));
        return asm.emit(Insn::packet_at(size, offset));
    }

    let (load, behind, done) = (asm.label(), asm.label(), asm.label());
    asm.jump(Jump::If64(Test::GreaterOrEqual, offset, TAG_END.cast_signed()), behind);
    asm.jump(Jump::If64(Test::LessOrEqual, offset, (TAG_START - size.bytes()).cast_signed()), load);
    // The bytes lie in the tag at least in part: one by one. The offset must outlive the loads.
    asm.emit(Insn::store64(Reg::R10, OFFSET_SLOT, offset));
    asm.emit(Insn::set(SCRATCH, 0));
    for index in 0..size.bytes() {
        asm.emit(Insn::load64(offset, Reg::R10, OFFSET_SLOT));
        if index > 0 {
            asm.emit(Insn::alu64(Alu::Add, offset, index.cast_signed()));
        }
        one_byte(asm, offset);
        append(asm);
    }
    asm.emit(Insn::copy(A, SCRATCH));
    asm.jump(Jump::Always, done);
    asm.bind(behind);
    asm.emit(Insn::alu64(Alu::Sub, offset, TAG_BYTES.cast_signed()));
    asm.bind(load);
    asm.emit(Insn::packet_at(size, offset));
    asm.bind(done);
}

/// Copies 32 bits in a way that lets the verifier know nothing of the copy: it follows what is spilled to whole words of
/// the stack, not what is in the half of one. Otherwise it would look at all that comes after an indirect load anew for
/// each range that the offset may be in, and these multiply.
pub(super) fn forget(asm: &mut Assembler, to: Reg, from: Reg) {
    asm.emit(Insn::store32(Reg::R10, FORGETFUL_SLOT, from));
    asm.emit(Insn::load32(to, Reg::R10, FORGETFUL_SLOT));
}

/// A = the byte at the offset in a register, which it changes.
fn one_byte(asm: &mut Assembler, offset: Reg) {
    let (load, behind, done) = (asm.label(), asm.label(), asm.label());
    asm.jump(Jump::If64(Test::Less, offset, TAG_START.cast_signed()), load);
    asm.jump(Jump::If64(Test::GreaterOrEqual, offset, TAG_END.cast_signed()), behind);
    let shift = Reg::R2;
    asm.emit(Insn::set(shift, TAG_END - 1));
    asm.emit(Insn::alu_reg(Alu::Sub, shift, offset));
    asm.emit(Insn::alu(Alu::Lsh, shift, 3));
    asm.emit(Insn::copy(A, TAG));
    asm.emit(Insn::alu_reg(Alu::Rsh, A, shift));
    asm.emit(Insn::alu(Alu::And, A, 0xff));
    asm.jump(Jump::Always, done);
    asm.bind(behind);
    asm.emit(Insn::alu64(Alu::Sub, offset, TAG_BYTES.cast_signed()));
    asm.bind(load);
    asm.emit(Insn::packet_at(Size::Byte, offset));
    asm.bind(done);
}

/// Where a number of bytes is.
enum Place {
    /// In the frame, at this offset.
    Frame(u32),
    /// In the tag; so many bits are behind it.
    Tag(u32),
    /// Not all in one.
    Both,
}

fn place(k: u32, bytes: u32, tag: Tag) -> Place {
    match tag {
        Tag::InFrame => Place::Frame(k),
        Tag::InMetadata if k >= TAG_END => Place::Frame(k - TAG_BYTES),
        Tag::InMetadata if k + bytes <= TAG_START => Place::Frame(k),
        Tag::InMetadata if k >= TAG_START && k + bytes <= TAG_END => Place::Tag((TAG_END - k - bytes) * 8),
        Tag::InMetadata => Place::Both,
    }
}

/// SCRATCH = SCRATCH with the byte in A behind it.
fn append(asm: &mut Assembler) {
    asm.emit(Insn::alu(Alu::Lsh, SCRATCH, 8));
    asm.emit(Insn::alu_reg(Alu::Or, SCRATCH, A));
}

/// A = so many bytes of the tag in A.
fn tag_bytes(asm: &mut Assembler, shift: u32, size: Size) {
    if shift > 0 {
        asm.emit(Insn::alu(Alu::Rsh, A, shift));
    }
    match size {
        Size::Word => {}
        Size::Half => asm.emit(Insn::alu(Alu::And, A, 0xffff)),
        Size::Byte => asm.emit(Insn::alu(Alu::And, A, 0xff)),
    }
}

/// A load at an offset that `never_succeeds` has let pass.
fn packet(size: Size, offset: u32) -> Insn {
    Insn::packet(size, offset.cast_signed())
}
