//! pcap-filter(7) expressions as eBPF.
//!
//! libpcap compiles an expression to classic BPF ([`compile()`]), which is translated nearly one to one ([`translate`]) into
//! a function that takes the place of the kernel programs' `filter` before they are loaded. The text is hostile input: the
//! agent asks a [`Compiler`], which runs libpcap in a child that can do no harm and remembers answers. Knows nothing of
//! Kubernetes.

mod assembler;
pub mod classic;
pub mod compile;
pub mod compiler;
mod error;
mod filter;
pub mod insn;
pub mod kernel;
pub mod sandbox;
pub mod savefile;
pub mod text;
pub mod translate;

pub use classic::{ClassicInsn, ClassicProgram};
pub use compile::compile;
pub use compiler::{ChildCommand, Compiler, child_main};
pub use error::FilterError;
pub use filter::Filter;
