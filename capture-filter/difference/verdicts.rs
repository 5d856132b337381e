//! Where a batch leaves what its filters say: an array map of one element.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use capture_filter::insn::{Insn, Reg};

use super::calls::{MapCreate, MapLookup, bpf, owned};

// Commands and map types of bpf(2), include/uapi/linux/bpf.h.
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP: libc::c_int = 1;
const ARRAY: u32 = 2;

/// What filters say of a packet, a bit each: bit N is set when filter N matches.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Verdicts {
    /// The function alone, as socket programs call it.
    pub(crate) function: u32,
    /// With the fast path before it, as in tc programs.
    pub(crate) fast: u32,
}

impl Verdicts {
    /// Each way's name and bits.
    pub(crate) fn each(self) -> [(&'static str, u32); 2] {
        [("function", self.function), ("fast path", self.fast)]
    }
}

pub(crate) struct VerdictsMap(OwnedFd);

impl VerdictsMap {
    pub(crate) fn new() -> io::Result<Self> {
        let value_size = size_of::<Verdicts>() as u32;
        let mut attr = MapCreate { map_type: ARRAY, key_size: 4, value_size, max_entries: 1, map_flags: 0 };
        // SAFETY: there are no addresses in this.
        unsafe { bpf(MAP_CREATE, &mut attr) }.map(owned).map(Self)
    }

    /// Instructions that write registers to the value's words, one after the other; they destroy r1.
    pub(crate) fn store(&self, registers: &[Reg]) -> Vec<Insn> {
        // BPF_PSEUDO_MAP_VALUE: the address of the value, in two instructions' room.
        let mut code = vec![
            Insn { code: 0x18, dst: 1, src: 2, off: 0, imm: self.0.as_raw_fd() },
            Insn { code: 0, dst: 0, src: 0, off: 0, imm: 0 },
        ];
        code.extend(
            registers.iter().zip(0..).map(|(&register, word)| Insn::store32(Reg::R1, 4 * word, register)),
        );
        code
    }

    pub(crate) fn read(&self) -> io::Result<Verdicts> {
        let (key, mut verdicts) = (0u32, Verdicts::default());
        let mut attr = MapLookup {
            map_fd: self.0.as_raw_fd().cast_unsigned(),
            padding: 0,
            key: std::ptr::from_ref(&key) as u64,
            value: std::ptr::from_mut(&mut verdicts) as u64,
            flags: 0,
        };
        // SAFETY: key and value live during the call, and are as large as the map was made for.
        unsafe { bpf(MAP_LOOKUP, &mut attr) }?;
        Ok(verdicts)
    }
}
