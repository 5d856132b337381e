//! What becomes of the records of a node that is gone: nobody else will ever end or remove them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use capture_api::{Defaults, GoDuration, PodCapture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ApiResource, DeleteParams, ListParams, Object, Patch, PatchParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::{Api, Client};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time;
use tracing::{debug, info};

use crate::budget::Budget;
use crate::lease::Leadership;
use crate::records::run_state;
use crate::write::{MANAGER, Outcome, Writer};

/// Records asked for at once.
const PAGE: u32 = 250;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to wait at most before records of a node that stays gone are looked at again.
const AGAIN: Duration = Duration::from_secs(600);
/// The same when something went wrong.
const SOON: Duration = Duration::from_secs(10);

/// A PodCapture as far as its end is concerned.
pub(crate) type Swept = Object<SweptSpec, SweptStatus>;

/// See [`capture_api::PodCaptureSpec`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SweptSpec {
    node: String,
    settings: Value,
}

/// See [`capture_api::PodCaptureStatus`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SweptStatus {
    state: String,
    end_time: Option<String>,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its run has not ended and never will: it failed.
    Fail,
    /// Its retention is over.
    Remove,
    /// It stays until then.
    Keep(Timestamp),
    /// It is none of ours.
    Leave,
}

/// What becomes of a record of the node `gone`.
fn fate(record: &Swept, gone: &str, now: Timestamp) -> Fate {
    if record.spec.node != gone || record.metadata.deletion_timestamp.is_some() {
        return Fate::Leave;
    }
    let none = SweptStatus::default();
    let status = record.status.as_ref().unwrap_or(&none);
    if !run_state(&status.state).is_final() {
        return Fate::Fail;
    }
    let told = status.end_time.as_deref().and_then(|time| time.parse().ok());
    let Some(end) = told.or(record.metadata.creation_timestamp.as_ref().map(|time| time.0)) else {
        return Fate::Leave;
    };
    match kept_until(record, end) {
        until if until <= now => Fate::Remove,
        until => Fate::Keep(until),
    }
}

/// When the retention of a run is over that ended at `end`.
fn kept_until(record: &Swept, end: Timestamp) -> Timestamp {
    let told = record.spec.settings.get("retention").and_then(Value::as_str);
    let retention: GoDuration =
        told.and_then(|text| text.parse().ok()).unwrap_or(Defaults::default().retention);
    let retention = SignedDuration::try_from(retention.0).unwrap_or(SignedDuration::MAX);
    end.checked_add(retention).unwrap_or(Timestamp::MAX)
}

/// The status of a run whose node is gone.
fn failed(gone: &str, now: Timestamp) -> Value {
    json!({
        "state": "Failed",
        "reason": "NodeGone",
        "message": format!(
            "The node {gone} is not part of the cluster any more. What it captured is on its disk, if that still \
             exists; the counts are the last that were heard of."
        ),
        "endTime": Timestamp::from_second(now.as_second()).unwrap_or(now),
    })
}

/// Looks at all records of a node that is gone.
pub(crate) struct Sweep {
    pub(crate) client: Client,
    pub(crate) writer: Writer,
    pub(crate) leadership: Leadership,
    pub(crate) budget: Arc<Budget>,
}

impl Sweep {
    /// Ends and removes what is to be ended and removed. Gives when to look again.
    pub(crate) async fn run(self, gone: Arc<str>) -> Instant {
        match self.is_gone(&gone).await {
            Some(true) => {}
            Some(false) => return Instant::now() + AGAIN,
            None => return Instant::now() + SOON,
        }
        let records: Api<Swept> = Api::all_with(self.client.clone(), &ApiResource::erase::<PodCapture>(&()));
        let mut params = ListParams::default().fields(&format!("spec.node={gone}")).limit(PAGE);
        let now = Timestamp::now();
        let (mut ended, mut removed, mut next, mut troubled) = (0u32, 0u32, Timestamp::MAX, false);
        loop {
            let page = match time::timeout(PATIENCE, records.list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    debug!(node = %gone, %error, "records of a node that is gone could not be listed");
                    return Instant::now() + SOON;
                }
                Err(_) => return Instant::now() + SOON,
            };
            for record in &page.items {
                let outcome = match fate(record, &gone, now) {
                    Fate::Leave => continue,
                    Fate::Keep(until) => {
                        next = next.min(until);
                        continue;
                    }
                    Fate::Fail => {
                        next = next.min(kept_until(record, now));
                        self.change(record, Some(failed(&gone, now))).await.inspect(|outcome| {
                            ended += u32::from(*outcome == Outcome::Done);
                        })
                    }
                    Fate::Remove => self.change(record, None).await.inspect(|outcome| {
                        removed += u32::from(*outcome == Outcome::Done);
                    }),
                };
                match outcome {
                    // Its turn comes, or another gateway's.
                    None => return Instant::now() + SOON,
                    Some(outcome) => troubled |= matches!(outcome, Outcome::Failed | Outcome::Conflict),
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        if ended + removed > 0 {
            info!(node = %gone, ended, removed, "records of a node that is gone");
        }
        let wait = Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or_default();
        Instant::now() + if troubled { SOON } else { wait.clamp(Duration::from_secs(1), AGAIN) }
    }

    /// Asks for the node itself: a list that lacked it for whatever reason must not cost a live node its records. None
    /// when nobody could tell.
    async fn is_gone(&self, node: &str) -> Option<bool> {
        let nodes = Api::<PartialObjectMeta<Node>>::all(self.client.clone());
        match time::timeout(PATIENCE, nodes.get_opt(node)).await {
            Ok(Ok(found)) => Some(found.is_none()),
            Ok(Err(error)) => {
                debug!(node, %error, "whether the node is gone could not be told");
                None
            }
            Err(_) => None,
        }
    }

    /// Writes a status, or removes the record. None when this gateway may not write any more.
    async fn change(&self, record: &Swept, status: Option<Value>) -> Option<Outcome> {
        while !self.budget.take(Instant::now()) {
            time::sleep(Duration::from_millis(50)).await;
        }
        let until = self.leadership.until()?;
        let meta = &record.metadata;
        let (Some(namespace), Some(name)) = (&meta.namespace, &meta.name) else { return Some(Outcome::Gone) };
        let resource = ApiResource::erase::<PodCapture>(&());
        let records: Api<Swept> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        // Only as it was seen: an agent that is back after all has the last word.
        Some(match status {
            Some(status) => {
                let patch = json!({
                    "metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version},
                    "status": status,
                });
                let (params, patch) = (
                    PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() },
                    Patch::Merge(&patch),
                );
                let write = async { records.patch_status(name, &params, &patch).await.map(drop) };
                self.writer.write("record", until, write).await
            }
            None => {
                let params = DeleteParams {
                    preconditions: Some(Preconditions {
                        uid: meta.uid.clone(),
                        resource_version: meta.resource_version.clone(),
                    }),
                    ..DeleteParams::default()
                };
                let write = async { records.delete(name, &params).await.map(drop) };
                self.writer.write("removal", until, write).await
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(node: &str, state: &str, end: Option<&str>, retention: Option<&str>) -> Swept {
        serde_json::from_value(json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "PodCapture",
            "metadata": {"name": "r", "namespace": "team-a", "creationTimestamp": "2026-11-01T10:00:00Z"},
            "spec": {"node": node, "settings": retention.map(|retention| json!({"retention": retention}))},
            "status": {"state": state, "endTime": end},
        }))
        .unwrap()
    }

    fn at(time: &str) -> Timestamp {
        time.parse().unwrap()
    }

    #[test]
    fn an_unfinished_run_of_a_node_that_is_gone_has_failed() {
        for state in ["Pending", "Scheduled", "WaitingForTraffic", "Capturing", "Paused", ""] {
            assert_eq!(
                fate(&record("n1", state, None, None), "n1", at("2026-11-01T11:00:00Z")),
                Fate::Fail,
                "{state}"
            );
        }
        let status = failed("n1", at("2026-11-01T11:00:00.5Z"));
        assert_eq!((&status["state"], &status["reason"]), (&json!("Failed"), &json!("NodeGone")));
        assert_eq!(status["endTime"], "2026-11-01T11:00:00Z");
        assert!(status["message"].as_str().unwrap().contains("n1"));
    }

    #[test]
    fn an_ended_run_stays_for_its_retention_and_no_longer() {
        let hour = record("n1", "Completed", Some("2026-11-01T10:30:00Z"), Some("1h"));
        assert_eq!(fate(&hour, "n1", at("2026-11-01T11:29:59Z")), Fate::Keep(at("2026-11-01T11:30:00Z")));
        assert_eq!(fate(&hour, "n1", at("2026-11-01T11:30:00Z")), Fate::Remove);
        // A day when nothing is said, from its creation when it has no end.
        let refused = record("n1", "Refused", None, None);
        assert_eq!(fate(&refused, "n1", at("2026-11-02T09:59:59Z")), Fate::Keep(at("2026-11-02T10:00:00Z")));
        assert_eq!(fate(&refused, "n1", at("2026-11-02T10:00:00Z")), Fate::Remove);
    }

    #[test]
    fn records_of_other_nodes_and_those_that_are_going_are_left_alone() {
        let other = record("n2", "Capturing", None, None);
        assert_eq!(fate(&other, "n1", at("2027-01-01T00:00:00Z")), Fate::Leave);
        let mut going = record("n1", "Completed", Some("2026-11-01T10:30:00Z"), Some("0s"));
        going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
        assert_eq!(fate(&going, "n1", at("2027-01-01T00:00:00Z")), Fate::Leave);
    }
}
