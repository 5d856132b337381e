//! The CapturePolicy that comes with podtap, made once. kubectl cannot apply an object together with its own definition, so
//! the gateway makes it out of a ConfigMap, and notes there that it did: one that an admin deletes stays deleted.

use std::time::{Duration, Instant};

use capture_api::CapturePolicy;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use thiserror::Error;
use tracing::{info, warn};

use crate::write::MANAGER;

/// The ConfigMap, in the gateway's own namespace.
const NAME: &str = "podtap-default-policy";
/// Its key with the policy, as YAML.
const KEY: &str = "policy.yaml";
/// Its annotation that says when the policy was made.
const MADE: &str = "podtap.dev/made";
/// How long an attempt may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How soon the next one follows one that failed.
const PAUSE: Duration = Duration::from_secs(30);

/// Whether the policy is still to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) enum DefaultPolicy {
    /// Not before this.
    Due(Instant),
    UnderWay,
    /// Made, now or earlier, or not wanted.
    Settled,
}

impl DefaultPolicy {
    /// Whether to make an attempt now, which is under way then.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let due = matches!(self, Self::Due(due) if *due <= now);
        if due {
            *self = Self::UnderWay;
        }
        due
    }

    /// The attempt is over. `settled` says whether it was the last.
    pub(crate) fn over(&mut self, settled: bool, now: Instant) {
        *self = if settled { Self::Settled } else { Self::Due(now + PAUSE) };
    }
}

/// Why the policy was not made.
#[derive(Debug, Error)]
enum MakeError {
    #[error("key {KEY} of ConfigMap {NAME}: {0}")]
    Policy(String),
    #[error("making it: {0}")]
    Create(#[source] kube::Error),
    #[error("ConfigMap {NAME}: {0}")]
    ConfigMap(#[source] kube::Error),
    #[error("no answer within {PATIENCE:?}")]
    Silence,
}

/// Makes the policy unless that was done before. False when it is to be tried again.
pub(crate) async fn make(client: Client, namespace: String) -> bool {
    let made = tokio::time::timeout(PATIENCE, make_once(client, &namespace)).await;
    match made.unwrap_or(Err(MakeError::Silence)) {
        Ok(()) => true,
        Err(error) => {
            warn!(%error, "the default policy could not be made; trying on");
            false
        }
    }
}

async fn make_once(client: Client, namespace: &str) -> Result<(), MakeError> {
    let configs: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    // Who wants none leaves the ConfigMap out.
    let Some(config) = configs.get_opt(NAME).await.map_err(MakeError::ConfigMap)? else { return Ok(()) };
    if config.annotations().contains_key(MADE) {
        return Ok(());
    }
    let text = config.data.as_ref().and_then(|data| data.get(KEY));
    let text = text.ok_or_else(|| MakeError::Policy("it is missing".to_owned()))?;
    let policy: CapturePolicy =
        serde_saphyr::from_str(text).map_err(|error| MakeError::Policy(error.to_string()))?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let name = policy.name_any();
    match Api::<CapturePolicy>::all(client).create(&params, &policy).await {
        Ok(_) => info!(name, "the default policy is made"),
        // It stays as it is.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(MakeError::Create(error)),
    }
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let note = json!({"metadata": {
        "resourceVersion": config.resource_version(),
        "annotations": {MADE: format!("{:.0}", Timestamp::now())},
    }});
    configs.patch(NAME, &params, &Patch::Merge(note)).await.map_err(MakeError::ConfigMap)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_fails_is_made_again_after_a_pause_and_one_that_works_is_the_last() {
        let start = Instant::now();
        let mut policy = DefaultPolicy::Due(start);
        assert!(policy.begin(start) && !policy.begin(start));
        policy.over(false, start);
        assert!(!policy.begin(start + PAUSE / 2) && policy.begin(start + PAUSE));
        policy.over(true, start);
        assert!(!policy.begin(start + 10 * PAUSE));
    }
}
