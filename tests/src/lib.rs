//! podtap tests harness.
