//! Makes taps: a copy of the kernel object with settings and filter, loaded into the kernel.

use std::{
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};

use capture_common::{DIRECTION_FROM_POD, DIRECTION_TO_POD, Direction, MAX_CAPTURED, TapSettings};
use capture_filter::Filter;
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    time::{ClockId, clock_getres},
};

use super::{
    AttachMode, DatapathError, Tap,
    attach::WarmLinks,
    object::{Entry, Template},
};

/// Loads taps. One for the process, shared by threads.
#[derive(Debug)]
pub struct Loader {
    mode: AttachMode,
    template: Template,
    /// A ring that was made ahead, and its bytes.
    spare: Mutex<Option<(u32, OwnedFd)>>,
    /// Nanoseconds between two ticks of the kernel's timer.
    tick_ns: u32,
    _warm: Option<WarmLinks>,
}

impl Loader {
    /// Finds out how this kernel attaches taps, by trying, or takes the way that is `forced`. Raises the process's
    /// limit of open files to what it may have: a tap holds six.
    pub fn new(forced: Option<AttachMode>) -> Result<Self, DatapathError> {
        let template = Template::embedded()?;
        raise(Resource::Nofile);
        // Kernels before 5.11 charge maps to this one.
        raise(Resource::Memlock);
        let (mode, warm) = match (forced, WarmLinks::create()) {
            (Some(AttachMode::Socket), _) | (None, Err(DatapathError::NoTcx(_))) => {
                (AttachMode::Socket, None)
            }
            (Some(AttachMode::Tcx) | None, warm) => (AttachMode::Tcx, Some(warm?)),
        };
        // The coarse clocks advance at each tick.
        let tick = clock_getres(ClockId::MonotonicCoarse);
        let tick_ns = u32::try_from(tick.tv_nsec).unwrap_or(u32::MAX);
        Ok(Self { mode, template, spare: Mutex::new(None), tick_ns, _warm: warm })
    }

    /// How taps are attached here.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Loads a tap to be attached in that mode, halted. `ring_bytes` is a power of two of at least a page. Only the
    /// programs that mode and direction need are loaded: the verifier's time is most of a tap's.
    pub fn load(
        &self,
        filter: Option<&Filter>,
        settings: &TapSettings,
        ring_bytes: u32,
        mode: AttachMode,
    ) -> Result<Tap, DatapathError> {
        check(settings, ring_bytes)?;
        let directions = match settings.direction {
            DIRECTION_FROM_POD => &[Direction::FromPod][..],
            DIRECTION_TO_POD => &[Direction::ToPod],
            _ => &[Direction::FromPod, Direction::ToPod],
        };
        let entries: Vec<Entry> = match mode {
            AttachMode::Tcx => directions.iter().map(|direction| Entry::tc(*direction)).collect(),
            AttachMode::Socket => vec![Entry::PacketSocket],
        };
        let ring = self.ring(ring_bytes)?;
        let settings =
            TapSettings { filtered: u32::from(filter.is_some()), tick_ns: self.tick_ns, ..*settings };
        let (maps, programs) = self.template.load(filter, &settings, ring, &entries)?;
        Tap::new(mode, directions, ring_bytes, maps, programs)
    }

    /// Makes a ring ahead for the next tap: the kernel takes longer over its memory than over the rest of the tap. It
    /// comes on top of what taps hold, so there is one at most.
    pub fn prepare(&self, ring_bytes: u32) {
        let is_there = self.spare().as_ref().is_some_and(|(bytes, _)| *bytes == ring_bytes);
        if !is_there && let Ok(ring) = self.template.make_ring(ring_bytes) {
            *self.spare() = Some((ring_bytes, ring));
        }
    }

    fn ring(&self, bytes: u32) -> Result<OwnedFd, DatapathError> {
        match self.spare().take_if(|(spare, _)| *spare == bytes) {
            Some((_, ring)) => Ok(ring),
            None => self.template.make_ring(bytes),
        }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Option<(u32, OwnedFd)>> {
        // It is taken or put in place whole.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel programs' buckets know the time by its ticks, of up to 10 ms: of a shorter burst, less than the rate would
/// come through.
const SHORTEST_BURST: u64 = 10_000_000;

fn check(settings: &TapSettings, ring_bytes: u32) -> Result<(), DatapathError> {
    if !ring_bytes.is_power_of_two() || (ring_bytes as usize) < rustix::param::page_size() {
        return Err(DatapathError::RingSize(ring_bytes));
    }
    let out_of_range = |setting, value| Err(DatapathError::Setting { setting, value });
    match settings {
        TapSettings { snap_length: value, .. } if !(1..=MAX_CAPTURED).contains(value) => {
            out_of_range("snap_length", u64::from(*value))
        }
        TapSettings { direction: value @ DIRECTION_TO_POD..=u32::MAX, .. } if *value != DIRECTION_TO_POD => {
            out_of_range("direction", u64::from(*value))
        }
        TapSettings { packet_cost: 1.., packet_burst: value @ ..SHORTEST_BURST, .. } => {
            out_of_range("packet_burst", *value)
        }
        TapSettings { byte_cost: 1.., byte_burst: value @ ..SHORTEST_BURST, .. } => {
            out_of_range("byte_burst", *value)
        }
        TapSettings { sample: 0, .. } => out_of_range("sample", 0),
        _ => Ok(()),
    }
}

/// As far as this process may. Where that is not enough, what needs it says so.
fn raise(resource: Resource) {
    let limit = getrlimit(resource);
    let _ = setrlimit(resource, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
