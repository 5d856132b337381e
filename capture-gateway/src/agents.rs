//! What agents take for what neither a request nor a policy says: their configuration, as far as it decides about the
//! window of a capture and what is clipped. Agents read it when they start, the gateway whenever it changes.

use capture_api::{Caps, CapsSpec, Defaults, GoDuration};
use serde::Deserialize;

/// The key of the ConfigMap that holds the configuration.
pub(crate) const KEY: &str = "agent.yaml";

/// What agents fill requests with, and clip them to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agents {
    pub(crate) defaults: Defaults,
    /// Where no policy caps.
    pub(crate) caps: Caps,
}

impl Default for Agents {
    /// Of agents whose configuration names neither.
    fn default() -> Self {
        Self { defaults: Defaults::default(), caps: Caps { whose: "policy", ..Caps::default() } }
    }
}

/// The file's keys that matter here. Agents check the whole.
#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    defaults: DefaultsFile,
    caps: CapsSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DefaultsFile {
    duration: Option<String>,
}

impl Agents {
    /// Reads them from the ConfigMap's data.
    ///
    /// # Errors
    /// What is wrong with it, in words. Agents do not start with such a one.
    pub(crate) fn read(data: Option<&str>) -> Result<Self, String> {
        let file: Option<File> = match data {
            Some(text) => serde_saphyr::from_str(text).map_err(|error| error.to_string())?,
            None => None,
        };
        let (file, default) = (file.unwrap_or_default(), Self::default());
        let duration = file.defaults.duration.as_deref().map(str::parse::<GoDuration>).transpose();
        let duration = duration.map_err(|error| format!("defaults.duration: {error}"))?;
        Ok(Self {
            defaults: Defaults {
                duration: duration.unwrap_or(default.defaults.duration),
                ..default.defaults
            },
            caps: Caps::resolve([&file.caps], &default.caps).map_err(|refusal| refusal.message)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_about_windows_is_read_and_the_rest_is_the_agents_affair() {
        let text = "# ...\nmemoryBudget: 256Mi\nhttpAddress: 0.0.0.0:9471\ndefaults: {duration: 1h, rotation: {files: 3}}\n\
                    caps: {duration: 2h, capturesPerNamespace: 9}\n";
        let agents = Agents::read(Some(text)).unwrap();
        assert_eq!(agents.defaults.duration, GoDuration::from_secs(3600));
        assert_eq!((agents.caps.duration, agents.caps.whose), (GoDuration::from_secs(7200), "policy"));
    }

    #[test]
    fn what_is_not_said_is_as_agents_have_it() {
        for text in [None, Some(""), Some("# nothing\n"), Some("memoryBudget: 256Mi\n")] {
            assert_eq!(Agents::read(text).unwrap(), Agents::default(), "{text:?}");
        }
    }

    #[test]
    fn what_agents_would_not_start_with_is_said() {
        for (text, part) in [
            ("defaults: {duration: 1d}", "defaults.duration"),
            ("caps: {duration: soon}", "caps.duration"),
            ("defaults: [", ""),
        ] {
            assert!(Agents::read(Some(text)).unwrap_err().contains(part), "{text}");
        }
    }
}
