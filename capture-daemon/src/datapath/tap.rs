//! One tap: a loaded program with its ring, perhaps attached to an interface.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use capture_common::{DIRECTION_FROM_POD, DIRECTION_TO_POD, Direction};

use super::{
    AttachMode, Control, Counters, DatapathError, Ring,
    attach::{FilterSocket, TcxLink},
    object::TapMaps,
    sys,
};

/// The entry points that this kernel may need.
#[derive(Debug)]
pub(super) struct Programs {
    /// By [`Direction`].
    pub(super) tcx: Option<[OwnedFd; 2]>,
    pub(super) socket: OwnedFd,
}

/// Where a tap hangs.
#[derive(Debug)]
enum Attachment {
    Tcx(Vec<TcxLink>),
    Socket(FilterSocket),
}

/// A loaded tap. Dropping it detaches it; its ring and control words live on with whoever has them.
#[derive(Debug)]
pub struct Tap {
    directions: Vec<Direction>,
    control: Control,
    ring: Option<Ring>,
    counters: OwnedFd,
    programs: Programs,
    attached: Option<(u32, Attachment)>,
}

impl Tap {
    /// A tap that is halted.
    pub(super) fn new(
        direction: u32,
        ring_bytes: u32,
        maps: TapMaps,
        programs: Programs,
    ) -> Result<Self, DatapathError> {
        let directions = match direction {
            DIRECTION_FROM_POD => vec![Direction::FromPod],
            DIRECTION_TO_POD => vec![Direction::ToPod],
            _ => vec![Direction::FromPod, Direction::ToPod],
        };
        let control = Control::map(maps.control.as_fd())?;
        control.set_halted(true);
        let ring = Some(Ring::map(maps.ring, ring_bytes)?);
        Ok(Self { directions, control, ring, counters: maps.counters, programs, attached: None })
    }

    /// The tap's ring, once: for the consumer.
    pub fn ring(&mut self) -> Result<Ring, DatapathError> {
        self.ring.take().ok_or(DatapathError::RingTaken)
    }

    /// The tap's control words.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// What the tap counted so far.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        Counters::read(self.counters.as_fd())
    }

    /// Attaches the tap to an interface of this network namespace, for the directions of its settings. The tap stays
    /// halted or not as it is. By tcx this waits for a grace period (some 10 ms) for each direction.
    pub fn attach(&mut self, ifindex: u32, mode: AttachMode) -> Result<(), DatapathError> {
        if let Some((ifindex, _)) = self.attached {
            return Err(DatapathError::Attached(ifindex));
        }
        let attachment = match mode {
            AttachMode::Tcx => {
                let links = self.directions.iter().map(|&direction| self.link(ifindex, direction));
                Attachment::Tcx(links.collect::<Result<_, _>>()?)
            }
            AttachMode::Socket => {
                Attachment::Socket(FilterSocket::bind(self.programs.socket.as_fd(), ifindex)?)
            }
        };
        self.attached = Some((ifindex, attachment));
        Ok(())
    }

    /// Puts this tap in the place of `old`: every packet meets one of the two, none meets both. This tap is halted
    /// afterwards if `old` was. Returns when no CPU runs the old one any more, which then counts and writes no more.
    pub fn take_over(&mut self, old: &mut Self) -> Result<(), DatapathError> {
        if let Some((ifindex, _)) = self.attached {
            return Err(DatapathError::Attached(ifindex));
        }
        let Some((ifindex, attachment)) = &mut old.attached else {
            return Err(DatapathError::NotAttached);
        };
        let ifindex = *ifindex;
        self.control.set_halted(old.control.is_halted());
        match attachment {
            Attachment::Socket(socket) => socket.set_program(self.programs.socket.as_fd())?,
            Attachment::Tcx(links) => {
                for link in &*links {
                    if self.directions.contains(&link.direction) {
                        link.replace(self.program(link.direction)?)?;
                    }
                }
            }
        }
        // From here on the attachment is this tap's, whatever else fails.
        if let Some((_, mut attachment)) = old.attached.take() {
            let added = self.match_directions(ifindex, &mut attachment);
            self.attached = Some((ifindex, attachment));
            added?;
        }
        sys::wait_for_running_programs();
        Ok(())
    }

    /// Drops the links of directions that are not wanted, and adds those that are missing.
    fn match_directions(&self, ifindex: u32, attachment: &mut Attachment) -> Result<(), DatapathError> {
        let Attachment::Tcx(links) = attachment else { return Ok(()) };
        links.retain(|link| self.directions.contains(&link.direction));
        for &direction in &self.directions {
            if !links.iter().any(|link| link.direction == direction) {
                links.push(self.link(ifindex, direction)?);
            }
        }
        Ok(())
    }

    /// Detaches the tap. Returns when no CPU runs it any more: its counters and its ring do not grow after.
    pub fn detach(&mut self) {
        self.attached = None;
    }

    /// The interface index that the tap is attached to, and how.
    #[must_use]
    pub fn attached(&self) -> Option<(u32, AttachMode)> {
        self.attached.as_ref().map(|(ifindex, attachment)| {
            let mode = match attachment {
                Attachment::Tcx(_) => AttachMode::Tcx,
                Attachment::Socket(_) => AttachMode::Socket,
            };
            (*ifindex, mode)
        })
    }

    fn link(&self, ifindex: u32, direction: Direction) -> Result<TcxLink, DatapathError> {
        TcxLink::create(self.program(direction)?, ifindex, direction)
    }

    fn program(&self, direction: Direction) -> Result<BorrowedFd<'_>, DatapathError> {
        let unsupported = || DatapathError::NoTcx(std::io::ErrorKind::Unsupported.into());
        let programs = self.programs.tcx.as_ref().ok_or_else(unsupported)?;
        Ok(programs[direction as usize].as_fd())
    }
}
