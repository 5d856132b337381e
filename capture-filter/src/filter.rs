//! A filter that can be loaded: the text, libpcap's program, and ours.

use std::borrow::Cow;

use crate::translate::{Flavour, MAX_CODE, Translation, translate};
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

    /// The eBPF function: r1 is the packet (`struct __sk_buff *`), r0 in the end 0 for no match. Only the portable
    /// flavour is kept; the other is made each time.
    pub fn translation(&self, flavour: Flavour) -> Cow<'_, Translation> {
        self.translation.flavour(flavour)
    }
}
