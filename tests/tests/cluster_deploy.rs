//! What is installed: twice without a change, with definitions that refuse what makes no sense and explain themselves,
//! and an agent that has the capabilities it needs and no other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use podtap_tests::cluster::{Namespace, SOON, wait};
use podtap_tests::kubectl::Kubectl;
use serde_json::{Value, json};

const OVERLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/default");
const CREATE: [&str; 4] = ["create", "--dry-run=server", "-f", "-"];

/// An admin of a cluster with podtap's definitions.
fn admin() -> Kubectl {
    let kubectl = Kubectl::admin().unwrap();
    kubectl.run(&["apply", "-k", OVERLAY]).unwrap();
    let wait = ["wait", "--for=condition=Established", "--timeout=30s", "crd"];
    let crds = ["packetcaptures", "podcaptures", "capturepolicies"].map(|name| format!("{name}.podtap.dev"));
    kubectl.run(&[&wait[..], &crds.each_ref().map(String::as_str)].concat()).unwrap();
    kubectl
}

fn packet_capture(spec: &Value) -> Value {
    json!({
        "apiVersion": "podtap.dev/v1alpha1", "kind": "PacketCapture",
        "metadata": {"name": "c", "namespace": "default"}, "spec": spec,
    })
}

fn policy(spec: &Value) -> Value {
    json!({"apiVersion": "podtap.dev/v1alpha1", "kind": "CapturePolicy", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn applying_it_again_changes_nothing() {
    let admin = admin();
    // What was asked for, without what Kubernetes itself notes about it.
    let state = || {
        let mut objects = admin.cluster.get_json(&["-k", OVERLAY, "--ignore-not-found"]).unwrap();
        let objects = objects["items"].as_array_mut().unwrap();
        // A job that is done goes away after a while, and is made again; it leaves the policy as it is.
        objects.retain(|object| object["kind"] != "Job");
        for object in &mut *objects {
            object.as_object_mut().unwrap().remove("status");
            let metadata = object["metadata"].as_object_mut().unwrap();
            metadata.remove("resourceVersion");
            metadata.remove("managedFields");
        }
        objects.clone()
    };
    let before = state();
    assert!(before.len() > 25, "{before:#?}");
    let said = admin.run(&["apply", "-k", OVERLAY]).unwrap();
    assert!(!said.lines().any(|line| line.ends_with(" created") && !line.starts_with("job.")), "{said}");
    assert!(state() == before, "{said}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn what_makes_no_sense_is_refused_at_once_and_the_message_says_what_to_write() {
    let admin = admin();
    let mut problems = Vec::new();
    let mut check = |object: &Value, word: Option<&str>| {
        let outcome = match word {
            None => admin.send(&CREATE, object).map(|_| ()),
            Some(word) => admin.refused(&CREATE, object).and_then(|said| {
                anyhow::ensure!(said.contains(word), "\"{word}\" is not in: {said}");
                Ok(())
            }),
        };
        if let Err(error) = outcome {
            problems.push(format!("{}: {error:#}", object["spec"]));
        }
    };
    let all = json!({
        "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
        "podNames": ["web-0", "a.b"], "filter": "tcp port 80", "direction": "Both", "snapLength": 65535,
        "headersOnly": false, "sample": 1, "rateLimit": {"packetsPerSecond": 100000, "bytesPerSecond": "100Mi"},
        "limits": {"packets": "1M", "bytes": "1Gi"}, "rotation": {"fileBytes": "100Mi", "files": 10, "interval": "1h"},
        "startTime": "2026-12-01T10:00:00Z", "duration": "1h30m", "state": "Running", "retention": "24h",
        "output": {"objectStore": "archive"},
    });
    check(&packet_capture(&all), None);
    for spec in [
        json!({"podSelector": {}}),
        json!({"podNames": ["web"], "retention": "0", "limits": {"bytes": "1.5Gi"}, "duration": "1.5h"}),
        json!({"podSelector": {}, "startTime": "2026-12-01T10:00:00Z", "endTime": "2026-12-01T10:00:00.1Z"}),
        // Helm and the like leave such.
        json!({"podSelector": {}, "filter": null, "limits": null, "endTime": null, "duration": null}),
    ] {
        check(&packet_capture(&spec), None);
    }
    for (spec, word) in [
        (json!({}), "write podSelector"),
        (json!({"podNames": []}), "write podSelector"),
        (json!({"duration": "1m", "endTime": "2026-12-01T10:00:00Z"}), "leave one of them out"),
        (
            json!({"startTime": "2026-12-01T10:00:00Z", "endTime": "2026-12-01T10:00:00Z"}),
            "write a later one",
        ),
        (json!({"startTime": "tomorrow"}), "date-time"),
        (json!({"duration": "10"}), "write a duration such as 90s"),
        (json!({"duration": "2 weeks"}), "write a duration such as 90s"),
        (json!({"duration": "1d"}), "a day is 24h"),
        (json!({"duration": "0s"}), "longer than nothing"),
        (json!({"duration": "-5m"}), "write a duration"),
        (json!({"retention": "soon"}), "write a duration"),
        (json!({"rotation": {"interval": "10ms"}}), "at least 1s"),
        (json!({"snapLength": 0}), "at least 1"),
        (json!({"snapLength": -1}), "at least 1"),
        (json!({"sample": "many"}), "100Mi"),
        (json!({"limits": {"bytes": "1Gb"}}), "100Mi"),
        (json!({"limits": {"bytes": "0.5"}}), "whole number"),
        (json!({"limits": {"packets": "99Ei"}}), "whole number"),
        (json!({"rateLimit": {"bytesPerSecond": ""}}), "100Mi"),
        (json!({"direction": "frompod"}), "FromPod"),
        (json!({"state": "Off"}), "Paused"),
        (json!({"filter": "x".repeat(4097)}), "4096"),
        (json!({"podNames": ["Web_0"]}), "lower-case"),
        (json!({"podNames": ["a", "a"]}), "Duplicate"),
        (json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}), "DoesNotExist"),
        (
            json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "In and NotIn need values",
        ),
        (json!({"durration": "10m"}), "durration"),
    ] {
        let mut spec = spec;
        if spec.get("podNames").is_none() && word != "write podSelector" && spec.get("podSelector").is_none()
        {
            spec["podSelector"] = json!({});
        }
        check(&packet_capture(&spec), Some(word));
    }
    let select = json!({"matchLabels": {"a": "b"}});
    check(&policy(&json!({"namespaceSelector": {}})), None);
    let caps = json!({"duration": "1h", "bytes": "10Gi", "captures": 0, "capturesPerHour": 10, "headersOnly": true, "outputs": ["a"]});
    check(
        &policy(
            &json!({"namespaceSelector": select, "suspended": true, "labelRequests": false, "caps": caps}),
        ),
        None,
    );
    for (spec, word) in [
        (json!({}), "namespaceSelector"),
        (json!({"namespaceSelector": {}, "caps": {"duration": "1d"}}), "a day is 24h"),
        (json!({"namespaceSelector": {}, "caps": {"bytes": "much"}}), "100Mi"),
        (json!({"namespaceSelector": {}, "caps": {"captures": -1}}), "whole number"),
        (
            json!({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}),
            "take none",
        ),
    ] {
        check(&policy(&spec), Some(word));
    }
    assert!(problems.is_empty(), "{problems:#?}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_stopped_capture_stays_stopped() {
    let admin = admin();
    let space = Namespace::make(&admin.cluster, "stopped", &[]).unwrap();
    let mut capture = packet_capture(&json!({"podNames": ["nobody"]}));
    capture["metadata"]["namespace"] = json!(space.name());
    admin.send(&["create", "-f", "-"], &capture).unwrap();
    let set = |state: &str| {
        let patch = json!({"spec": {"state": state}}).to_string();
        admin.run(&["-n", space.name(), "patch", "pcap", "c", "--type=merge", "-p", &patch])
    };
    for state in ["Paused", "Running", "Stopped", "Stopped"] {
        set(state).unwrap();
    }
    let said = set("Running").unwrap_err().to_string();
    assert!(said.contains("create another PacketCapture"), "{said}");
    let listed = |selector: &str| {
        admin.run(&["-n", space.name(), "get", "pcap", "-o", "name", "--field-selector", selector]).unwrap()
    };
    assert_eq!(listed("spec.state=Stopped").trim(), "packetcapture.podtap.dev/c");
    assert_eq!(listed("spec.state=Running"), "");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn every_field_is_explained_and_lists_show_what_matters() {
    let admin = admin();
    let published = wait("the definitions to be published", SOON, || {
        let published: Value =
            serde_json::from_str(&admin.run(&["get", "--raw", "/openapi/v3/apis/podtap.dev/v1alpha1"])?)?;
        let schemas = &published["components"]["schemas"];
        Ok(schemas["dev.podtap.v1alpha1.CapturePolicy"].is_object().then(|| schemas.clone()))
    });
    let schemas = published.unwrap();
    let mut fields = 0;
    for kind in ["PacketCapture", "PodCapture", "CapturePolicy"] {
        let schema = &schemas[format!("dev.podtap.v1alpha1.{kind}")];
        each_field(schema, kind, &mut |path, schema| {
            fields += 1;
            let ours = path.contains(".spec") || path.contains(".status");
            let text = schema["description"].as_str().unwrap_or_default();
            assert!(!ours || text.len() > 10 && !text.contains("[`"), "{path}: \"{text}\"");
        });
    }
    assert!(fields > 100, "{fields}");
    for (path, word) in [
        ("packetcapture.spec.filter", "pcap-filter(7)"),
        ("pcap.spec.state", "Stopped ends it"),
        ("podcap.status.drops.ring", "ring buffer"),
        ("capturepolicies.spec.suspended", "kill switch"),
    ] {
        let text = admin.run(&["explain", path]).unwrap();
        assert!(text.contains(word), "{text}");
    }
    let resources =
        admin.run(&["api-resources", "--api-group=podtap.dev", "--categories=podtap", "-o", "name"]).unwrap();
    for name in ["packetcaptures", "podcaptures", "capturepolicies"] {
        assert!(resources.contains(&format!("{name}.podtap.dev")), "{resources}");
    }
    // The fields that can be selected by.
    for (what, selector) in [
        ("podcaptures", "spec.node=node1"),
        ("podcaptures", "spec.pod=web"),
        ("podcaptures", "spec.capture=c"),
        ("podcaptures", "status.state=Capturing"),
    ] {
        admin.run(&["get", what, "-A", "--field-selector", selector]).unwrap();
    }
}

/// Calls `visit` with every field below a schema.
fn each_field(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        visit(&path, inner);
        each_field(inner, &path, visit);
    }
    if schema["items"].is_object() {
        each_field(&schema["items"], path, visit);
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_default_policy_is_there_and_stays_as_an_admin_leaves_it() {
    let admin = admin();
    let default = || admin.cluster.get_json(&["capturepolicy", "default"]);
    let policy = wait("the default policy", SOON, || default().map(Some)).unwrap();
    assert_eq!(policy["spec"]["namespaceSelector"]["matchLabels"], json!({"podtap.dev/allow": "true"}));
    assert_eq!(policy["spec"]["caps"]["duration"], "10m");
    admin.run(&["annotate", "--overwrite", "capturepolicy", "default", "podtap.dev/test=kept"]).unwrap();
    admin
        .run(&["-n", "podtap-gateway", "delete", "job", "podtap-default-policy", "--ignore-not-found"])
        .unwrap();
    admin.run(&["apply", "-k", OVERLAY]).unwrap();
    let wait = [
        "-n",
        "podtap-gateway",
        "wait",
        "--for=condition=Complete",
        "--timeout=60s",
        "job/podtap-default-policy",
    ];
    admin.run(&wait).unwrap();
    let policy = default().unwrap();
    assert_eq!(policy["metadata"]["annotations"]["podtap.dev/test"], "kept");
    admin.run(&["annotate", "capturepolicy", "default", "podtap.dev/test-"]).unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_agent_is_run_as_a_guest_of_the_node() {
    let admin = admin();
    let daemonset = admin.cluster.get_json(&["-n", "podtap-system", "daemonset", "podtap-agent"]).unwrap();
    let pod = &daemonset["spec"]["template"]["spec"];
    let agent = &pod["containers"][0];
    assert_eq!(pod["containers"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&pod["hostNetwork"], &pod["hostPID"], &pod["hostIPC"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    let context = &agent["securityContext"];
    assert_eq!(context["privileged"], false);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let mounts = agent["volumeMounts"].as_array().unwrap().iter();
    let written: Vec<&Value> =
        mounts.filter(|one| one["readOnly"] != true).map(|one| &one["mountPath"]).collect();
    assert_eq!(written, ["/var/lib/podtap"]);
    assert!(agent["resources"]["limits"]["cpu"].is_null());
    // Rings are charged to the limit, so it grows with the budget.
    let config = admin.cluster.get_json(&["-n", "podtap-system", "configmap", "podtap-agent"]).unwrap();
    let config = config["data"]["agent.yaml"].as_str().unwrap().to_owned();
    let budget = config.lines().find_map(|line| line.strip_prefix("memoryBudget: ")).unwrap();
    let mebibytes = |text: &str| text.strip_suffix("Mi").unwrap().parse::<u64>().unwrap();
    let limit = mebibytes(agent["resources"]["limits"]["memory"].as_str().unwrap());
    assert_eq!(limit, mebibytes(budget) + 128);

    for namespace in ["podtap-system", "podtap-gateway"] {
        let level = if namespace == "podtap-system" { "privileged" } else { "restricted" };
        let labels = admin.cluster.get_json(&["namespace", namespace]).unwrap()["metadata"]["labels"].clone();
        assert_eq!(labels["pod-security.kubernetes.io/enforce"], level);
    }
}
