//! A filter that can be loaded: the text, libpcap's program, and ours.

use crate::insn::Insn;
use crate::translate::{MAX_CODE, Translation, fast_path, translate};
use crate::{ClassicProgram, FilterError};

/// A compiled expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    expression: String,
    classic: ClassicProgram,
    translation: Translation,
}

impl Filter {
    /// Translates what libpcap made of an expression.
    ///
    /// # Errors
    /// [`FilterError::ProgramTooLong`] when it does not fit into [`MAX_CODE`] instructions.
    pub fn from_classic(
        expression: impl Into<String>,
        classic: ClassicProgram,
    ) -> Result<Filter, FilterError> {
        let translation = translate(&classic, MAX_CODE)?;
        Ok(Filter { expression: expression.into(), classic, translation })
    }

    /// The text, as it was given.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// libpcap's program.
    pub fn classic(&self) -> &ClassicProgram {
        &self.classic
    }

    /// The eBPF function: r1 is the packet (`struct __sk_buff *`), r0 in the end 0 for no match.
    pub fn translation(&self) -> &Translation {
        &self.translation
    }

    /// What a tc program does before it calls the function, to do without it: instructions that begin with the packet in r1,
    /// change r0 to r5, use up to 144 bytes below the `stack` bytes that the program uses, and go on at their end if the
    /// function must be called, or one instruction further on with r0 as if it had been. `None` if it must be in any case.
    /// Made each time.
    pub fn fast_path(&self, stack: u16) -> Option<Vec<Insn>> {
        fast_path(&self.classic, stack)
    }
}
