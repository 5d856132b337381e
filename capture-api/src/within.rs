//! Settings that were resolved some time ago, under the caps of today: what a capture goes on with whose request cannot
//! be read any more.

use std::fmt::Display;

use jiff::Timestamp;

use crate::settings::later;
use crate::{Caps, Refusal, Settings, Window, reasons};

impl Settings {
    /// These settings clipped to `caps`, of a request that was accepted at `accepted`; and what was clipped, one sentence
    /// each. What [`crate::from_spec`] has resolved with the same caps stays as it is.
    ///
    /// # Errors
    /// The caps do not allow its destination.
    pub fn within(mut self, accepted: Timestamp, caps: &Caps) -> Result<(Self, Vec<String>), Refusal> {
        if let Some(store) = self.output.object_store.as_ref().filter(|store| !caps.outputs.contains(store)) {
            return Err(Refusal::new(
                reasons::UNKNOWN_OUTPUT,
                format!("There is no destination \"{store}\" here any more, and nothing may go there."),
            ));
        }
        let mut notes = Vec::new();
        let mut clip = Clip { whose: caps.whose, notes: &mut notes };
        clip.number("snap length", &mut self.snap_length, caps.snap_length);
        clip.option("packets per second", &mut self.rate.packets_per_second, caps.packets_per_second);
        clip.option("bytes per second", &mut self.rate.bytes_per_second, caps.bytes_per_second);
        clip.option("packet limit", &mut self.limits.packets, caps.packets);
        clip.number("byte limit", &mut self.limits.bytes, caps.bytes);
        clip.number("retention", &mut self.retention, caps.retention);
        match &mut self.window {
            Window::Duration(duration) => clip.number("duration", duration, caps.duration),
            Window::EndTime(end) => {
                let last = later(self.start_time.unwrap_or(accepted), caps.duration.0);
                clip.number("end", end, last);
            }
        }
        if caps.headers_only && !self.headers_only {
            self.headers_only = true;
            notes.push(format!("only headers are kept, as the {}'s caps say", caps.whose));
        }
        Ok((self, notes))
    }
}

struct Clip<'a> {
    whose: &'static str,
    notes: &'a mut Vec<String>,
}

impl Clip<'_> {
    fn number<T: Copy + Ord + Display>(&mut self, what: &str, value: &mut T, cap: T) {
        if *value > cap {
            self.notes.push(format!("{what} {value} clipped to {cap}, the {}'s cap", self.whose));
            *value = cap;
        }
    }

    fn option(&mut self, what: &str, value: &mut Option<u64>, cap: Option<u64>) {
        match (value.as_mut(), cap) {
            (Some(value), Some(cap)) => self.number(what, value, cap),
            (None, Some(_)) => *value = cap,
            (_, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Defaults, GoDuration, PacketCaptureSpec, from_spec};

    fn spec(window: (&str, &str)) -> PacketCaptureSpec {
        let mut spec = json!({
            "podSelector": {}, "filter": "tcp", "snapLength": 1500, "retention": "24h",
            "rateLimit": {"packetsPerSecond": 1000}, "limits": {"bytes": "100Mi"},
        });
        spec[window.0] = json!(window.1);
        serde_json::from_value(spec).unwrap()
    }

    fn tight() -> Caps {
        Caps {
            duration: GoDuration::from_secs(60),
            bytes: 1 << 20,
            packets: Some(10),
            snap_length: 100,
            packets_per_second: Some(5),
            bytes_per_second: Some(1000),
            headers_only: true,
            retention: GoDuration::from_secs(1),
            ..Caps::default()
        }
    }

    #[test]
    fn settings_come_out_as_if_they_were_resolved_with_these_caps() {
        let accepted: Timestamp = "2026-12-01T10:00:00Z".parse().unwrap();
        for window in [("duration", "5m"), ("endTime", "2026-12-01T10:05:00Z")] {
            let spec = spec(window);
            let resolve = |caps: &Caps| from_spec(&spec, accepted, &Defaults::default(), caps).unwrap();
            let (loose, _) = resolve(&Caps::default());
            let (now, notes) = loose.clone().within(accepted, &tight()).unwrap();
            let (expected, told) = resolve(&tight());
            assert_eq!(now, expected);
            assert_eq!(notes.len(), told.len(), "{notes:?} {told:?}");
            assert!(
                notes.contains(&"snap length 1500 clipped to 100, the node's cap".to_owned()),
                "{notes:?}"
            );
            // Neither the same caps again nor looser ones change anything.
            for caps in [tight(), Caps::default()] {
                assert_eq!(now.clone().within(accepted, &caps).unwrap(), (now.clone(), Vec::new()));
            }
        }
    }

    #[test]
    fn a_destination_that_is_not_allowed_any_more_is_refused() {
        let mut spec = spec(("duration", "5m"));
        spec.output = serde_json::from_value(json!({"objectStore": "archive"})).unwrap();
        let caps = Caps { outputs: vec!["archive".into()], ..Caps::default() };
        let (settings, _) = from_spec(&spec, Timestamp::UNIX_EPOCH, &Defaults::default(), &caps).unwrap();
        assert!(settings.clone().within(Timestamp::UNIX_EPOCH, &caps).is_ok());
        let refusal = settings.within(Timestamp::UNIX_EPOCH, &Caps::default()).unwrap_err();
        assert_eq!(refusal.reason, reasons::UNKNOWN_OUTPUT);
    }
}
