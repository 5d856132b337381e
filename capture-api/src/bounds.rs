//! How much of what users ask for is read. Whoever may create PacketCaptures in one namespace must not fill the memory of
//! those who watch all of them: every agent, and the gateway.

use std::collections::HashMap;

use crate::{Refusal, reasons};

/// The most bytes of a PacketCapture's spec, as JSON. The largest one that the API server takes has less; objects that
/// were made before it had bounds may have more.
pub const MAX_SPEC: usize = 96 << 10;
/// The most bytes of the specs of one namespace together: thousands of ordinary ones.
pub const MAX_SPECS: usize = 1 << 20;

/// Bytes of PacketCaptures' specs that are held, by namespace.
#[derive(Debug, Default)]
pub struct SpecRoom {
    held: HashMap<String, usize>,
}

impl SpecRoom {
    /// Takes room for a spec of so many bytes.
    ///
    /// # Errors
    /// It is too large, or the namespace holds too much already; the message tells its author what to do.
    pub fn take(&mut self, namespace: &str, bytes: usize) -> Result<(), Refusal> {
        if bytes > MAX_SPEC {
            return Err(Refusal::new(
                reasons::TOO_LARGE,
                format!(
                    "The capture's spec has {} KiB, and at most {} KiB of one are read: name fewer pods, labels and \
                     values.",
                    bytes.div_ceil(1024),
                    MAX_SPEC >> 10
                ),
            ));
        }
        let held = self.held.get(namespace).copied().unwrap_or_default() + bytes;
        if held > MAX_SPECS {
            return Err(Refusal::new(
                reasons::TOO_LARGE,
                format!(
                    "The PacketCaptures of namespace {namespace} have more than {} KiB together, and no more are \
                     read: delete those that are over, then create this one again.",
                    MAX_SPECS >> 10
                ),
            ));
        }
        self.held.insert(namespace.to_owned(), held);
        Ok(())
    }

    /// Gives back what was taken.
    pub fn give_back(&mut self, namespace: &str, bytes: usize) {
        if let Some(held) = self.held.get_mut(namespace) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.held.remove(namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_namespace_fills_its_own_room_only() {
        let mut room = SpecRoom::default();
        let fitting = (0..100).take_while(|_| room.take("team-a", MAX_SPEC).is_ok()).count();
        assert_eq!(fitting, MAX_SPECS / MAX_SPEC);
        let refusal = room.take("team-a", MAX_SPEC).unwrap_err();
        assert!(refusal.reason == "TooLarge" && refusal.message.contains("team-a"), "{refusal}");
        room.take("team-b", MAX_SPEC).unwrap();
        room.give_back("team-a", MAX_SPEC);
        room.take("team-a", MAX_SPEC).unwrap();
        for _ in 0..fitting {
            room.give_back("team-a", MAX_SPEC);
        }
        room.give_back("team-b", MAX_SPEC);
        assert!(room.held.is_empty());
    }

    #[test]
    fn a_spec_that_is_too_large_is_refused_with_its_size() {
        let refusal = SpecRoom::default().take("team-a", MAX_SPEC + 1).unwrap_err();
        assert!(refusal.message.contains("97 KiB") && refusal.message.contains("96 KiB"), "{refusal}");
    }
}
