//! Objects' metadata without what may be of any size.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Deserializer};

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Few {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
}

/// For `#[serde(deserialize_with)]`: metadata as read of others' objects. Labels, annotations, owners and
/// `managedFields` are left out while reading; together they may have hundreds of kilobytes.
///
/// # Errors
/// What the deserializer says.
pub fn few_metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let few = Few::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: few.name,
        namespace: few.namespace,
        uid: few.uid,
        resource_version: few.resource_version,
        generation: few.generation,
        creation_timestamp: few.creation_timestamp,
        deletion_timestamp: few.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_be_of_any_size_is_left_out() {
        let full = json!({
            "name": "web", "namespace": "team-a", "uid": "u", "resourceVersion": "7", "generation": 3,
            "creationTimestamp": "2026-12-01T10:00:00Z", "labels": {"a": "b"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}], "finalizers": ["f"],
        });
        let read = few_metadata(full.clone()).unwrap();
        let mut expected = full;
        for key in ["labels", "annotations", "managedFields", "finalizers"] {
            expected.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(serde_json::to_value(read).unwrap(), expected);
    }
}
