//! What can go wrong between a filter and a running tap.

use std::io;

/// An operation of the data path that failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The agent was built before the kernel programs were.
    #[error("built without the kernel programs: run `cargo xtask build`")]
    NoPrograms,
    /// The embedded kernel object is not what this agent expects.
    #[error("the embedded kernel programs are not this agent's: {0}")]
    Object(String),
    /// The kernel refused a program.
    #[error("the kernel refused program {program}: {source}: {log}")]
    Program {
        /// Name of the entry point.
        program: &'static str,
        /// Why.
        source: io::Error,
        /// The end of what the verifier said.
        log: String,
    },
    /// A ring must be a power of two, of at least one page.
    #[error("a ring of {0} bytes is not possible: it must be a power of two of at least a page")]
    RingSize(u32),
    /// The settings contradict what the kernel programs can do.
    #[error("setting {setting} = {value} is out of range")]
    Setting {
        /// Field of `TapSettings`.
        setting: &'static str,
        /// Its value.
        value: u64,
    },
    /// The kernel has no tcx (Linux 6.6), and it was asked for.
    #[error("this kernel cannot attach by tcx (it needs Linux 6.6): {0}")]
    NoTcx(#[source] io::Error),
    /// A system call failed.
    #[error("{call}: {source}")]
    Syscall {
        /// What was tried.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A tap's ring can be taken once.
    #[error("the tap's ring is already in use")]
    RingTaken,
    /// The tap is attached, and a tap is attached to one interface at a time.
    #[error("the tap is already attached to interface {0}")]
    Attached(u32),
    /// A tap that was loaded for one mode cannot take over from one of the other.
    #[error("the taps were loaded for different ways of attaching")]
    OtherMode,
    /// Only an attached tap can be taken over.
    #[error("the tap to take over is not attached")]
    NotAttached,
}

impl DatapathError {
    /// The last system call's error, as the outcome of `call`.
    pub(super) fn last(call: &'static str) -> Self {
        Self::Syscall { call, source: io::Error::last_os_error() }
    }

    /// An error of `rustix`, as the outcome of `call`.
    pub(super) fn errno(call: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Syscall { call, source: errno.into() }
    }
}
