//! A tap's settings, fixed when it is loaded, and the words that user space writes while it runs.

/// Both directions are captured.
pub const DIRECTION_BOTH: u32 = 0;
/// Only what the pod sends.
pub const DIRECTION_FROM_POD: u32 = 1;
/// Only what the pod receives.
pub const DIRECTION_TO_POD: u32 = 2;

/// Read-only settings of one tap. They are constants to the verifier, which removes the code that they switch off.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapSettings {
    /// Cut packets to this many bytes, counted with the VLAN tag in the frame; 1 to [`crate::MAX_CAPTURED`].
    pub snap_length: u32,
    /// Not 0: keep only link, network and transport headers.
    pub headers_only: u32,
    /// One of the `DIRECTION_` constants.
    pub direction: u32,
    /// Keep one packet in this many, counted by direction and CPU; 1 keeps all.
    pub sample: u32,
    /// Not 0: there is a filter, and it is asked. The loader sets it.
    pub filtered: u32,
    /// Nanoseconds between two ticks of the kernel's timer. The loader sets it.
    pub tick_ns: u32,
    /// Nanoseconds between packets at the allowed rate, in units of 2^-20 ns; 0 = no limit.
    pub packet_cost: u64,
    /// How far ahead of time the packet bucket may run, in ns. Time passes in timer ticks of up to 10 ms for the
    /// buckets, so this must be at least as long.
    pub packet_burst: u64,
    /// Nanoseconds per wire byte at the allowed rate, in units of 2^-20 ns; 0 = no limit.
    pub byte_cost: u64,
    /// How far ahead of time the byte bucket may run, in ns; at least a timer tick too.
    pub byte_burst: u64,
    /// Wake the consumer when this many bytes wait in the ring.
    pub wakeup_bytes: u64,
}

/// Written by user space through a shared mapping while the tap runs, and by the program itself (the buckets).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapControl {
    /// What to add to the boot clock to get UTC, in ns.
    pub clock_offset: u64,
    /// Not 0: hand every packet on without looking at it.
    pub halted: u32,
    /// Keeps the buckets aligned.
    pub padding: u32,
    /// Packet bucket: time in ns, by the kernel's ticks, at which the last allowed packet is paid for.
    pub packets_paid_until: u64,
    /// Byte bucket: the same for bytes.
    pub bytes_paid_until: u64,
}

const _: () = assert!(size_of::<TapSettings>() == 64 && size_of::<TapControl>() == 32);
