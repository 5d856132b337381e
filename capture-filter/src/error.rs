//! Why an expression was refused, in words for the person who wrote it.

use thiserror::Error;

use crate::text::MAX_TEXT;

/// Why there is no filter for an expression.
///
/// Every variant but [`FilterError::Unavailable`] is a refusal: it depends on the text alone, and asking again gives it
/// again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FilterError {
    /// The text is longer than [`MAX_TEXT`] bytes.
    #[error(
        "the filter has {bytes} bytes, {MAX_TEXT} are allowed: group addresses into networks, or capture more and \
         narrow it down when reading"
    )]
    TextTooLong {
        /// Length of the text in bytes.
        bytes: usize,
    },
    /// The text holds a byte that is neither printable ASCII nor white space.
    #[error(
        "the filter holds byte {byte:#04x} at offset {offset}: write it in printable ASCII, as for tcpdump"
    )]
    NotText {
        /// The byte.
        byte: u8,
        /// Where it is, in bytes from the start.
        offset: usize,
    },
    /// A name stands where only a name service could tell its address.
    #[error("`{name}` is a name to be looked up, and filters ask no name service: write its address instead")]
    Name {
        /// The name.
        name: String,
    },
    /// A word that asks for the direction or interface of a packet.
    #[error(
        "`{word}` is not part of a packet: choose the direction of a capture by its `direction` (Both, FromPod or \
         ToPod); each file holds one interface only"
    )]
    Direction {
        /// The word.
        word: String,
    },
    /// `protochain` needs a loop, which kernels do not run in a filter.
    #[error(
        "`protochain` needs a loop, which the kernel does not run: write `proto` instead, with the protocols that are \
         expected"
    )]
    Protochain,
    /// libpcap could not make sense of the text; its own words.
    #[error("not a filter that libpcap understands: {message}")]
    Syntax {
        /// What libpcap says.
        message: String,
    },
    /// The program has a jump backward, so a loop.
    #[error("the filter needs a loop (instruction {index} jumps backward), which the kernel does not run")]
    Loop {
        /// Index of the jump in the classic program.
        index: usize,
    },
    /// The program loads something that is not in the frame.
    #[error(
        "the filter reads offset {offset:#x}, the kernel's own data and not the packet's (instruction {index}): read \
         bytes of the frame only, and choose the direction by `direction`"
    )]
    Ancillary {
        /// Index of the load in the classic program.
        index: usize,
        /// The offset.
        offset: u32,
    },
    /// Too many instructions.
    #[error(
        "the filter becomes {instructions} instructions, {limit} fit: group addresses into networks and ports into \
         ranges"
    )]
    ProgramTooLong {
        /// Number of instructions that it has.
        instructions: usize,
        /// Number of instructions that are possible.
        limit: usize,
    },
    /// Not a valid classic program; libpcap makes none such.
    #[error("the compiled filter is not a valid program: {what} (instruction {index})")]
    Invalid {
        /// Index of the instruction in the classic program.
        index: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Compiling took more time or memory than is allowed, or libpcap crashed.
    #[error(
        "the filter could not be compiled: {reason}; write it in a simpler way, with networks and ranges in place of \
         long lists"
    )]
    Exhausted {
        /// What happened to the compiler.
        reason: String,
    },
    /// The compiler could not be run, or not to its end; says nothing about the text.
    #[error("the filter compiler failed, which is not the filter's fault: {reason}")]
    Unavailable {
        /// What failed.
        reason: String,
    },
}

impl FilterError {
    /// True when the text itself is to blame, so that the same text is refused again.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, FilterError::Unavailable { .. })
    }
}
