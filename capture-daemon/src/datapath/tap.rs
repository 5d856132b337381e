//! One tap: a loaded program with its ring, perhaps attached to an interface.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use capture_common::Direction;

use super::{
    AttachMode, Control, Counters, Counting, DatapathError, Ring,
    attach::{FilterSocket, TcxLink},
    object::TapMaps,
    sys,
};

/// Where a tap hangs.
#[derive(Debug)]
enum Attachment {
    Tcx(Vec<TcxLink>),
    Socket(FilterSocket),
}

/// How a take-over failed.
enum Refused {
    /// All is as it was.
    Undone(DatapathError),
    /// Some links are the new tap's, and some the old one's.
    Halfway(DatapathError),
}

/// A loaded tap. Dropping it detaches it; its ring and control words live on with whoever has them.
#[derive(Debug)]
pub struct Tap {
    mode: AttachMode,
    directions: &'static [Direction],
    control: Control,
    ring: Option<Ring>,
    counting: Counting,
    /// By tcx one for each of `directions`, else one.
    programs: Vec<OwnedFd>,
    attached: Option<(u32, Attachment)>,
}

impl Tap {
    /// A tap that is halted.
    pub(super) fn new(
        mode: AttachMode,
        directions: &'static [Direction],
        ring_bytes: u32,
        maps: TapMaps,
        programs: Vec<OwnedFd>,
    ) -> Result<Self, DatapathError> {
        let control = Control::map(maps.control.as_fd())?;
        control.set_halted(true);
        let ring = Some(Ring::map(maps.ring, ring_bytes)?);
        let counting = Counting::new(maps.counters);
        Ok(Self { mode, directions, control, ring, counting, programs, attached: None })
    }

    /// How the tap is to be attached, or is.
    #[must_use]
    pub const fn mode(&self) -> AttachMode {
        self.mode
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
        self.counting.read()
    }

    /// The tap's counters, for whoever reads them elsewhere.
    pub fn counting(&self) -> &Counting {
        &self.counting
    }

    /// Attaches the tap to an interface of this network namespace, in the mode and for the directions that it was loaded
    /// for. It stays halted or not as it is. By tcx this waits for a grace period (some 10 ms) for each direction.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), DatapathError> {
        if let Some((ifindex, _)) = self.attached {
            return Err(DatapathError::Attached(ifindex));
        }
        let attachment = match self.mode {
            AttachMode::Tcx => {
                let links = self.directions.iter().map(|&direction| self.link(ifindex, direction));
                Attachment::Tcx(links.collect::<Result<_, _>>()?)
            }
            AttachMode::Socket => Attachment::Socket(FilterSocket::bind(self.programs[0].as_fd(), ifindex)?),
        };
        self.attached = Some((ifindex, attachment));
        Ok(())
    }

    /// Puts this tap in the place of `old`: every packet meets one of the two, none meets both. This tap is halted
    /// afterwards if `old` was. Returns when no CPU runs the old one any more, which then counts and writes no more.
    ///
    /// # Errors
    /// This tap is not attached then, and counts and writes no more. `old` is attached as it was, unless the kernel does
    /// not even let it have back what it had: then it is off its interface, too.
    pub fn take_over(&mut self, old: &mut Self) -> Result<(), DatapathError> {
        if let Some((ifindex, _)) = self.attached {
            return Err(DatapathError::Attached(ifindex));
        }
        if self.mode != old.mode {
            return Err(DatapathError::OtherMode);
        }
        let Some((ifindex, mut attachment)) = old.attached.take() else {
            return Err(DatapathError::NotAttached);
        };
        if old.control.is_halted() {
            self.control.set_halted(true);
        }
        let result = match &mut attachment {
            Attachment::Socket(socket) => {
                socket.set_program(self.programs[0].as_fd()).map_err(Refused::Undone)
            }
            Attachment::Tcx(links) => self.take_links(old, ifindex, links),
        };
        let result = match result {
            Ok(()) => {
                self.attached = Some((ifindex, attachment));
                Ok(())
            }
            Err(Refused::Undone(error)) => {
                old.attached = Some((ifindex, attachment));
                Err(error)
            }
            Err(Refused::Halfway(error)) => Err(error),
        };
        sys::wait_for_running_programs();
        result
    }

    /// Makes the links of `old` those of this tap.
    fn take_links(&self, old: &Self, ifindex: u32, links: &mut Vec<TcxLink>) -> Result<(), Refused> {
        // New links first, and held: when the kernel has no room for one, nothing has been captured twice or by halves.
        self.control.set_held(true);
        let missing =
            self.directions.iter().filter(|wanted| !links.iter().any(|link| link.direction == **wanted));
        let added: Vec<_> = missing
            .map(|&direction| self.link(ifindex, direction))
            .collect::<Result<_, _>>()
            .map_err(Refused::Undone)?;
        self.control.set_held(false);
        let kept = || links.iter().filter(|link| self.directions.contains(&link.direction));
        for (replaced, link) in kept().enumerate() {
            let Err(error) = self.program(link.direction).and_then(|program| link.replace(program)) else {
                continue;
            };
            self.control.set_held(true);
            let put_back = |link: &TcxLink| link.replace(old.program(link.direction)?);
            return Err(match kept().take(replaced).try_for_each(put_back) {
                Ok(()) => Refused::Undone(error),
                Err(_) => Refused::Halfway(error),
            });
        }
        links.retain(|link| self.directions.contains(&link.direction));
        links.extend(added);
        Ok(())
    }

    /// Detaches the tap. Returns when no CPU runs it any more: its counters and its ring do not grow after.
    pub fn detach(&mut self) {
        self.attached = None;
    }

    /// The interface index that the tap is attached to.
    #[must_use]
    pub fn attached(&self) -> Option<u32> {
        self.attached.as_ref().map(|(ifindex, _)| *ifindex)
    }

    /// Whether the tap is a socket on that interface, and the interface is still the one that it was attached to: the
    /// kernel knows it from a later one of the same index.
    #[must_use]
    pub fn is_on(&self, ifindex: u32) -> bool {
        matches!(&self.attached, Some((_, Attachment::Socket(socket))) if socket.bound_to() == Some(ifindex))
    }

    fn link(&self, ifindex: u32, direction: Direction) -> Result<TcxLink, DatapathError> {
        TcxLink::create(self.program(direction)?, ifindex, direction)
    }

    fn program(&self, direction: Direction) -> Result<BorrowedFd<'_>, DatapathError> {
        let loaded = self.directions.iter().zip(&self.programs);
        let found = loaded.filter(|(of, _)| **of == direction).map(|(_, program)| program.as_fd()).next();
        found.ok_or(DatapathError::OtherMode)
    }
}
