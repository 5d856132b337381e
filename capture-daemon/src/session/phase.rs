//! What a session is doing, and what it has of taps meanwhile.

use std::time::Instant;

use capture_api::Settings;

use super::Session;
use crate::{
    datapath::{AttachMode, Control, Tap},
    pods::HostInterface,
};

/// What a session is doing.
pub(super) enum Phase {
    /// Nothing yet; looks again at this time, or when a link appears.
    Waiting { again: Instant },
    /// A worker compiles the filter and loads the first tap.
    Loading { interface: HostInterface, settings: Settings, mode: AttachMode },
    /// A worker attaches the tap.
    Attaching { info: TapInfo },
    /// Packets arrive.
    Tapped { tap: Tap, info: TapInfo },
    /// Packets arrive; a worker loads a tap with other settings.
    Reloading { tap: Tap, info: TapInfo, settings: Settings },
    /// Packets arrive; a worker puts the new tap into the old one's place.
    TakingOver { old: TapInfo, new: TapInfo },
    /// A worker detaches the tap.
    Detaching { info: TapInfo },
    /// The consumer empties the ring, and writers close the files.
    Draining,
    /// The run has ended.
    Over,
    /// Only while a transition is worked out.
    Between,
}

/// What a session has of a tap that it or a worker holds.
pub(super) struct TapInfo {
    /// Its number with the consumer.
    pub(super) id: u64,
    pub(super) control: Control,
    pub(super) interface: HostInterface,
    /// Bytes of its ring, to be given back.
    pub(super) ring: u32,
    /// The settings that it was made from.
    pub(super) settings: Settings,
    pub(super) mode: AttachMode,
}

impl Session {
    /// The tap in place, for reading its counters and for halting it.
    pub(super) fn tap(&self) -> Option<(&Tap, &TapInfo)> {
        match &self.phase {
            Phase::Tapped { tap, info } | Phase::Reloading { tap, info, .. } => Some((tap, info)),
            _ => None,
        }
    }

    /// The control words of every tap that may be attached.
    pub(super) fn controls(&self) -> impl Iterator<Item = &Control> {
        let (one, other) = match &self.phase {
            Phase::Attaching { info } | Phase::Tapped { info, .. } | Phase::Reloading { info, .. } => {
                (Some(info), None)
            }
            Phase::TakingOver { old, new } => (Some(old), Some(new)),
            _ => (None, None),
        };
        one.into_iter().chain(other).map(|info| &info.control)
    }

    /// What the tap does that is in place or on its way.
    pub(super) fn settings_of_tap(&self) -> Option<&Settings> {
        match &self.phase {
            Phase::Loading { settings, .. } => Some(settings),
            Phase::Attaching { info }
            | Phase::Tapped { info, .. }
            | Phase::Reloading { info, .. }
            | Phase::TakingOver { old: info, .. }
            | Phase::Detaching { info } => Some(&info.settings),
            Phase::Waiting { .. } | Phase::Draining | Phase::Over | Phase::Between => None,
        }
    }
}
