//! A tap's counters, read from the kernel.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
};

use capture_common::{Direction, DirectionCounters};

use super::{DatapathError, sys};

/// What a tap counted, over all CPUs. Read without stopping the tap, so under traffic a packet may be in one counter
/// and not yet in another; exact once the tap is detached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// What the pod sent.
    pub from_pod: DirectionCounters,
    /// What the pod received.
    pub to_pod: DirectionCounters,
}

impl Counters {
    /// Both directions together.
    #[must_use]
    pub fn total(&self) -> DirectionCounters {
        let mut total = self.from_pod;
        total.add(&self.to_pod);
        total
    }

    /// Adds another tap's counters.
    pub fn add(&mut self, other: &Self) {
        self.from_pod.add(&other.from_pod);
        self.to_pod.add(&other.to_pod);
    }
}

/// A tap's counters in the kernel. Clones are the same; they may outlive the tap.
#[derive(Clone, Debug)]
pub struct Counting(Arc<OwnedFd>);

impl Counting {
    pub(super) fn new(map: OwnedFd) -> Self {
        Self(Arc::new(map))
    }

    /// What the tap has counted so far. Two system calls of a microsecond, which do not wait.
    pub fn read(&self) -> Result<Counters, DatapathError> {
        let map = self.0.as_fd();
        Ok(Counters {
            from_pod: read_direction(map, Direction::FromPod)?,
            to_pod: read_direction(map, Direction::ToPod)?,
        })
    }
}

/// 64-bit words of one CPU's counters.
const WORDS: usize = size_of::<DirectionCounters>() / size_of::<u64>();

fn read_direction(map: BorrowedFd<'_>, direction: Direction) -> Result<DirectionCounters, DatapathError> {
    let mut values = vec![0u64; possible_cpus()? * WORDS];
    sys::map_lookup(map, direction as u32, &mut values)
        .map_err(|source| DatapathError::Syscall { call: "read a tap's counters", source })?;
    let mut sum = DirectionCounters::default();
    for words in values.as_chunks::<WORDS>().0 {
        let [seen, matched, captured, bytes, sampled_out, rate_limited, ring_full, truncated] = *words;
        sum.add(&DirectionCounters {
            seen,
            matched,
            captured,
            bytes,
            sampled_out,
            rate_limited,
            ring_full,
            truncated,
        });
    }
    Ok(sum)
}

/// CPUs that a per-CPU map has values for. Never changes while the system runs.
fn possible_cpus() -> Result<usize, DatapathError> {
    static COUNT: OnceLock<usize> = OnceLock::new();
    if let Some(count) = COUNT.get() {
        return Ok(*count);
    }
    let count = aya::util::nr_cpus()
        .map_err(|(_, source)| DatapathError::Syscall { call: "read the number of possible CPUs", source })?;
    Ok(*COUNT.get_or_init(|| count))
}
