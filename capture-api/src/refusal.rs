//! Why a request is not carried out.

use serde::{Deserialize, Serialize};

/// A refused request: a reason for programs and a message that tells its author what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// CamelCase, one of [`reasons`] where this crate refuses.
    pub reason: String,
    /// One or two sentences: what is wrong, and what to write instead.
    pub message: String,
}

impl Refusal {
    /// A refusal of that reason.
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self { reason: reason.to_owned(), message: message.into() }
    }
}

/// Reasons of a [`Refusal`].
pub mod reasons {
    /// A label, annotation or field that does not exist.
    pub const UNKNOWN_FIELD: &str = "UnknownField";
    /// A field of the wrong kind, or a text that cannot be read.
    pub const INVALID_VALUE: &str = "InvalidValue";
    /// The request, or all of its namespace, has more bytes than are read.
    pub const TOO_LARGE: &str = "TooLarge";
    /// The filter is too long or holds characters that no filter has.
    pub const INVALID_FILTER: &str = "InvalidFilter";
    /// Start, end and duration contradict each other.
    pub const INVALID_WINDOW: &str = "InvalidWindow";
    /// A destination that no admin defined.
    pub const UNKNOWN_OUTPUT: &str = "UnknownOutput";
    /// The manifest does not say where the pod's traffic passes, or says it twice or impossibly.
    pub const INVALID_INTERFACE: &str = "InvalidInterface";
    /// No policy allows captures in the namespace.
    pub const NOT_ALLOWED: &str = "NotAllowed";
    /// An admin suspended captures in the namespace.
    pub const SUSPENDED: &str = "Suspended";
    /// A policy that concerns the namespace cannot be read.
    pub const INVALID_POLICY: &str = "InvalidPolicy";
    /// The namespace may capture by PacketCapture only.
    pub const LABELS_NOT_ALLOWED: &str = "LabelsNotAllowed";
    /// The agent has been cut off from the API server for too long.
    pub const API_SERVER_UNREACHABLE: &str = "ApiServerUnreachable";
    /// The pod uses the node's own network.
    pub const HOST_NETWORK: &str = "HostNetwork";
}
