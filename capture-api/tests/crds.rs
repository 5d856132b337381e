//! The custom resource definitions as Kubernetes will see them.

use capture_api::{
    CapturePolicy, MAX_SPEC, PacketCapture, PodCapture, PodCaptureSpec, RequestKind, RunState, definitions,
};
use kube::core::CustomResourceExt;
use serde_json::{Value, json};

fn crd<T: CustomResourceExt>() -> Value {
    let (_, definition) =
        definitions().into_iter().find(|(name, _)| *name == T::crd_name()).expect("each kind is defined");
    definition
}

/// Calls `visit` with each schema below, and its path.
fn schemas(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        schemas(inner, &format!("{path}.{name}"), visit);
    }
    for below in ["items", "additionalProperties"] {
        if schema[below].is_object() {
            schemas(&schema[below], &format!("{path}.{below}"), visit);
        }
    }
}

fn version(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]
}

#[test]
fn names_short_names_and_columns_are_the_contract() {
    for (crd, kind, scope, short) in [
        (crd::<PacketCapture>(), "PacketCapture", "Namespaced", json!(["pcap"])),
        (crd::<PodCapture>(), "PodCapture", "Namespaced", json!(["podcap"])),
        (crd::<CapturePolicy>(), "CapturePolicy", "Cluster", Value::Null),
    ] {
        assert_eq!(
            (&crd["spec"]["group"], &crd["spec"]["names"]["kind"]),
            (&json!("podtap.dev"), &json!(kind))
        );
        assert_eq!(crd["spec"]["scope"], scope);
        assert_eq!(crd["spec"]["names"]["shortNames"], short);
        assert_eq!(crd["spec"]["names"]["categories"], json!(["podtap"]));
        assert_eq!(version(&crd)["name"], "v1alpha1");
    }
    let crd = crd::<PodCapture>();
    let columns: Vec<_> = version(&crd)["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|column| column["priority"].is_null())
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["CAPTURE", "POD", "NODE", "STATE", "PACKETS", "DROPPED", "SIZE", "AGE"]);
    // What a column shows must exist.
    for column in version(&crd)["additionalPrinterColumns"].as_array().unwrap() {
        let path = column["jsonPath"].as_str().unwrap();
        if !path.starts_with(".metadata") {
            let pointer = path.replace('.', "/properties/");
            let schema = version(&crd)["schema"]["openAPIV3Schema"].pointer(&pointer).expect(path);
            let moment = column["type"] == "date" && schema["format"] == "date-time";
            assert!(
                schema["type"] == column["type"] || moment || !schema["enum"].is_null(),
                "{path}: {schema}"
            );
        }
    }
}

#[test]
fn schemas_are_structural_and_every_field_is_explained() {
    for crd in [crd::<PacketCapture>(), crd::<PodCapture>(), crd::<CapturePolicy>()] {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        let mut count = 0;
        schemas(&version(&crd)["schema"]["openAPIV3Schema"], &kind, &mut |path, schema| {
            count += 1;
            let typed = schema["type"].is_string() || schema["x-kubernetes-int-or-string"] == true;
            assert!(typed, "{path} has no type: {schema}");
            let closed = schema["additionalProperties"].is_boolean() && schema["properties"].is_object();
            assert!(!closed && schema["$ref"].is_null(), "{path} is not structural");
            assert!(schema["nullable"].is_null() && schema["anyOf"].is_null(), "{path}: {schema}");
            // What the API server knows; others it takes and ignores.
            let format = schema["format"].as_str();
            assert!(
                format.is_none_or(|format| ["int32", "int64", "date-time"].contains(&format)),
                "{path}: {schema}"
            );
            // A rule that looks at a text or a list costs what the longest one would.
            if schema["x-kubernetes-validations"].is_array() {
                match schema["type"].as_str() {
                    Some("string") => {
                        assert!(!schema["maxLength"].is_null() || !schema["enum"].is_null(), "{path}")
                    }
                    Some("array") => assert!(!schema["maxItems"].is_null(), "{path}"),
                    _ => {}
                }
            }
            let element = path.ends_with(".items") || path.ends_with(".additionalProperties");
            assert!(
                element || schema["description"].is_string() || path.ends_with(".metadata"),
                "{path} says nothing"
            );
        });
        assert!(count > 10, "{kind}");
    }
}

#[test]
fn the_example_of_the_design_is_a_packet_capture() {
    let example = json!({
        "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
        "metadata": {"name": "web", "namespace": "team-a"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}}, "filter": "tcp port 80", "direction": "Both",
            "snapLength": 65535, "headersOnly": false, "sample": 1,
            "rateLimit": {"packetsPerSecond": 100000, "bytesPerSecond": "100Mi"},
            "limits": {"packets": 1000000, "bytes": "1Gi"},
            "rotation": {"fileBytes": "100Mi", "files": 10, "interval": "1h"},
            "startTime": "2026-12-01T10:00:00Z", "duration": "10m", "state": "Running", "retention": "24h",
            "output": {"objectStore": "archive"}
        }
    });
    let capture: PacketCapture = serde_json::from_value(example.clone()).unwrap();
    assert_eq!(serde_json::to_value(&capture).unwrap(), example);
}

#[test]
fn a_record_is_written_as_the_contract_names_it() {
    let spec = PodCaptureSpec {
        pod: "web-0".into(),
        pod_uid: "p".into(),
        namespace_uid: "n".into(),
        request: RequestKind::PacketCapture,
        capture: Some("web".into()),
        request_uid: "r".into(),
        node: "node1".into(),
        settings: None,
    };
    let mut record = PodCapture::new("web-web-0-bcdfg", spec);
    let mut status =
        capture_api::PodCaptureStatus { state: RunState::WaitingForTraffic, ..Default::default() };
    status.drops.ring = 1;
    status.drops.storage = 2;
    status.bytes = 3 << 20;
    status.summarize();
    record.status = Some(status);
    let written = serde_json::to_value(&record).unwrap();
    for field in ["pod", "podUID", "namespaceUID", "capture", "node"] {
        assert!(written["spec"][field].is_string(), "{field}");
    }
    assert_eq!(written["status"]["state"], "WaitingForTraffic");
    assert_eq!((&written["status"]["dropped"], &written["status"]["size"]), (&json!(3), &json!("3Mi")));
    assert_eq!(serde_json::from_value::<PodCapture>(written).unwrap().status, record.status);
}

/// The largest value that a schema allows.
fn largest(schema: &Value) -> Value {
    let bound = |key: &str| {
        assert!(schema[key].is_u64(), "no {key}: {schema}");
        schema[key].as_u64().unwrap_or_default() as usize
    };
    let below = |key: &str| schema[key].as_object().into_iter().flatten();
    if let Some(words) = schema["enum"].as_array() {
        return words.iter().max_by_key(|word| word.to_string().len()).cloned().unwrap_or_default();
    }
    match schema["type"].as_str() {
        Some("boolean") => json!(false),
        Some("array") => json!(vec![largest(&schema["items"]); bound("maxItems")]),
        Some("object") if schema["additionalProperties"].is_object() => {
            // The length of keys is in a rule.
            let rule = schema["x-kubernetes-validations"][0]["rule"].as_str().unwrap_or_default();
            let length = rule.split(|c: char| !c.is_ascii_digit()).find_map(|digits| digits.parse().ok());
            let (length, value): (usize, _) =
                (length.unwrap_or_default(), largest(&schema["additionalProperties"]));
            (0..bound("maxProperties")).map(|number| (format!("{number:0length$}"), value.clone())).collect()
        }
        Some("object") => below("properties").map(|(name, inner)| (name.clone(), largest(inner))).collect(),
        _ => json!("x".repeat(bound("maxLength"))),
    }
}

#[test]
fn whatever_the_api_server_takes_is_read() {
    let crd = crd::<PacketCapture>();
    let spec = largest(&version(&crd)["schema"]["openAPIV3Schema"]["properties"]["spec"]);
    assert_eq!(spec["podSelector"]["matchExpressions"].as_array().unwrap().len(), 16);
    // Of a filter, each character may take two in JSON.
    let size = spec.to_string().len() + spec["filter"].as_str().unwrap().len();
    assert!((MAX_SPEC / 2..MAX_SPEC).contains(&size), "{size}");
}

#[test]
fn a_captures_window_cannot_be_moved() {
    let crd = crd::<PacketCapture>();
    let rules =
        version(&crd)["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"].clone();
    let about_start: Vec<&Value> = rules
        .as_array()
        .unwrap()
        .iter()
        .filter(|rule| rule["rule"].as_str().unwrap().contains("oldSelf.startTime"))
        .collect();
    assert_eq!(about_start.len(), 1, "{rules}");
    assert!(about_start[0]["message"].as_str().unwrap().contains("create another PacketCapture"));
}
