//! podtap's objects and what follows from them: the custom resources, label and annotation keys, how values are
//! written, and the effective settings of a capture after defaults and caps. No I/O.

#![forbid(unsafe_code)]

mod amount;
mod bounds;
mod caps;
mod capture_policy;
mod definitions;
mod duration;
mod effective;
pub mod keys;
mod metadata;
pub mod names;
mod packet_capture;
mod pod_capture;
mod policy;
mod refusal;
mod schema;
mod selection;
mod settings;
pub mod strict;
mod within;

pub use amount::{Amount, QuantityError, human_bytes, parse_quantity};
pub use bounds::{MAX_SPEC, MAX_SPECS, SpecRoom};
pub use caps::{Caps, CapsSpec, Defaults};
pub use capture_policy::{CapturePolicy, CapturePolicySpec};
pub use definitions::definitions;
pub use duration::{DurationError, GoDuration};
pub use effective::{MIN_FILE_BYTES, from_annotations, from_spec};
pub use metadata::few_metadata;
pub use packet_capture::{
    DesiredState, Direction, LimitsSpec, OutputSpec, PacketCapture, PacketCaptureSpec, PacketCaptureStatus,
    RateLimitSpec, RotationSpec,
};
pub use pod_capture::{
    DirectionStatus, Drops, FileStatus, PodCapture, PodCaptureSpec, PodCaptureStatus, RequestKind, RunState,
};
pub use policy::{Governed, Policy, govern};
pub use refusal::{Refusal, reasons};
pub use selection::Selection;
pub use settings::{Limits, MAX_SNAP_LENGTH, Output, Rate, Rotation, Settings, Window};

/// Group and version of podtap's objects.
pub const API_VERSION: &str = "podtap.dev/v1alpha1";
