//! Puts a filter into the kernel programs' object file before it is loaded.
//!
//! The object has a function `filter` whose body is nothing but room. Its bytes are overwritten in place:
//! ```text
//! w0 = 0
//! if w0 == 0 goto CODE
//! goto +0 ...           padding
//! CODE: the translation
//! ```
//! so that every instruction can be reached, as the verifier's first pass wants, and its second pass sees that the padding
//! never runs and removes it all at once. Symbols, relocations and BTF stay as they are.

use object::{Endianness, Object, ObjectSection, ObjectSymbol};
use thiserror::Error;

use crate::Filter;
use crate::insn::{Endian, INSN_BYTES, Insn, Jump, Reg, Test};

/// Name of the function that gives the room.
pub const SYMBOL: &str = "filter";

/// Why an object took no filter: it is not the one that podtap builds, or the filter is too long for it.
#[derive(Debug, Error)]
pub enum SpliceError {
    /// Not an ELF file.
    #[error("the kernel programs are no object file: {0}")]
    Object(#[from] object::Error),
    /// No function `filter`, or not one of whole instructions inside its section.
    #[error("the kernel programs have no usable function `{SYMBOL}`: {0}")]
    Function(&'static str),
    /// The filter needs more instructions than the function has.
    #[error("the filter needs {needed} instructions, the kernel programs have room for {room}")]
    Room {
        /// Instructions needed.
        needed: usize,
        /// Instructions there are.
        room: usize,
    },
}

/// Overwrites the function `filter` in an object file.
///
/// # Errors
/// See [`SpliceError`]; the object is then unchanged.
pub fn splice(object: &mut [u8], filter: &Filter) -> Result<(), SpliceError> {
    let (range, endian) = body(object)?;
    let room = range.len() / INSN_BYTES;
    let code = &filter.translation().code;
    // The two instructions in front are part of what must fit.
    let needed = code.len() + 2;
    let (Some(padding), Some(body)) = (room.checked_sub(needed), object.get_mut(range)) else {
        return Err(SpliceError::Room { needed, room });
    };
    let skip = i16::try_from(padding).map_err(|_| SpliceError::Function("it is too large"))?;
    let prologue = [Insn::set(Reg::R0, 0), Jump::If32(Test::Equal, Reg::R0, 0).insn(skip)];
    let instructions =
        prologue.into_iter().chain(std::iter::repeat_n(Insn::NOP, padding)).chain(code.iter().copied());
    for (bytes, insn) in body.as_chunks_mut::<INSN_BYTES>().0.iter_mut().zip(instructions) {
        *bytes = insn.to_bytes(endian);
    }
    Ok(())
}

/// Where the function's instructions are in the file.
fn body(data: &[u8]) -> Result<(std::ops::Range<usize>, Endian), SpliceError> {
    let object = object::File::parse(data)?;
    let endian = match object.endianness() {
        Endianness::Little => Endian::Little,
        Endianness::Big => Endian::Big,
    };
    let symbol = object
        .symbols()
        .find(|symbol| symbol.name() == Ok(SYMBOL) && symbol.is_definition())
        .ok_or(SpliceError::Function("there is none"))?;
    let section = symbol.section_index().ok_or(SpliceError::Function("it is in no section"))?;
    let section = object.section_by_index(section)?;
    let (file_offset, file_size) =
        section.file_range().ok_or(SpliceError::Function("its section is empty"))?;
    let (start, size) = (symbol.address().wrapping_sub(section.address()), symbol.size());
    let inside = start.checked_add(size).is_some_and(|end| end <= file_size);
    if !inside || size == 0 || size % INSN_BYTES as u64 != 0 || start % INSN_BYTES as u64 != 0 {
        return Err(SpliceError::Function("its size and place make no sense"));
    }
    if section.relocations().any(|(at, _)| (start..start + size).contains(&at)) {
        return Err(SpliceError::Function("it refers to other functions"));
    }
    let place = |number: u64| usize::try_from(number).map_err(|_| SpliceError::Function("it is too far"));
    let begin = place(file_offset + start)?;
    Ok((begin..begin + place(size)?, endian))
}

#[cfg(test)]
mod tests;
