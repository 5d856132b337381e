//! Instructions with labels instead of offsets.

use crate::insn::{Insn, Jump};

/// A place in the program, known or not yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A program in the making.
#[derive(Default)]
pub(crate) struct Assembler {
    code: Vec<Insn>,
    /// Where each label is, once bound.
    places: Vec<Option<usize>>,
    /// Jumps that are to get an offset: index, kind, where to.
    jumps: Vec<(usize, Jump, Label)>,
}

/// A jump was too far for its 16 bits.
pub(crate) struct TooFar;

impl Assembler {
    pub(crate) fn emit(&mut self, insn: Insn) {
        self.code.push(insn);
    }

    pub(crate) fn label(&mut self) -> Label {
        self.places.push(None);
        Label(self.places.len() - 1)
    }

    /// The label is here.
    pub(crate) fn bind(&mut self, label: Label) {
        self.bind_ahead(label, 0);
    }

    /// The label is so many instructions further on.
    pub(crate) fn bind_ahead(&mut self, label: Label, instructions: usize) {
        self.places[label.0] = Some(self.code.len() + instructions);
    }

    pub(crate) fn jump(&mut self, jump: Jump, to: Label) {
        self.jumps.push((self.code.len(), jump, to));
        self.code.push(Insn::NOP);
    }

    /// Number of instructions so far.
    pub(crate) fn len(&self) -> usize {
        self.code.len()
    }

    pub(crate) fn is_used(&self, label: Label) -> bool {
        self.jumps.iter().any(|&(_, _, to)| to == label)
    }

    pub(crate) fn finish(mut self) -> Result<Vec<Insn>, TooFar> {
        for (at, jump, Label(to)) in self.jumps {
            let to = self.places[to].ok_or(TooFar)?;
            let off = i16::try_from(to as i64 - at as i64 - 1).map_err(|_| TooFar)?;
            self.code[at] = jump.insn(off);
        }
        Ok(self.code)
    }
}
