//! What is installed: twice without a change, with definitions that refuse what makes no sense and explain themselves,
//! and an agent that has the capabilities it needs and no other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::time::Duration;

use podtap_tests::cluster::{Namespace, SOON, wait};
use podtap_tests::kubectl::Kubectl;
use podtap_tests::process::output_within;
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

/// A spec that selects by so many labels with keys of that length.
fn select_by_labels(labels: usize, key: usize) -> Value {
    let labels: Value =
        (0..labels).map(|number| (format!("{number:a>key$}"), json!("v".repeat(63)))).collect();
    json!({"podSelector": {"matchLabels": labels}})
}

/// A spec that selects by so many expressions with so many values.
fn select_by_expressions(expressions: usize, values: usize) -> Value {
    let expression =
        json!({"key": "k".repeat(317), "operator": "In", "values": vec!["v".repeat(63); values]});
    json!({"podSelector": {"matchExpressions": vec![expression; expressions]}})
}

fn policy(spec: &Value) -> Value {
    json!({"apiVersion": "podtap.dev/v1alpha1", "kind": "CapturePolicy", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn applying_it_again_changes_nothing() {
    let admin = admin();
    default_policy(&admin);
    wait("what the gateway notes about it", SOON, || {
        let config = ["-n", "podtap-gateway", "configmap", "podtap-default-policy"];
        Ok(admin.cluster.get_json(&config)?["metadata"]["annotations"]["podtap.dev/made"]
            .is_string()
            .then_some(()))
    })
    .unwrap();
    // What was asked for, without what Kubernetes itself notes about it.
    let state = || {
        let mut objects = admin.cluster.get_json(&["-k", OVERLAY, "--ignore-not-found"]).unwrap();
        let objects = objects["items"].as_array_mut().unwrap();
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
    assert!(!said.lines().any(|line| line.ends_with(" created")), "{said}");
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
    check(&packet_capture(&select_by_labels(32, 317)), None);
    check(&packet_capture(&select_by_expressions(16, 32)), None);
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
        // Every agent reads every capture, so none may be large.
        (select_by_labels(33, 1), "at most 32"),
        (select_by_labels(1, 318), "at most 317 characters"),
        (select_by_expressions(17, 1), "at most 16"),
        (select_by_expressions(1, 33), "at most 32"),
        (json!({"snapLength": "0".repeat(33) + "9"}), "32"),
        (json!({"startTime": format!("2026-12-01T10:00:00.{}Z", "0".repeat(64))}), "64"),
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

/// The default policy, once a gateway has made it.
fn default_policy(admin: &Kubectl) -> Value {
    wait("the default policy", SOON, || admin.cluster.get_json(&["capturepolicy", "default"]).map(Some))
        .unwrap()
}

/// Has other gateways run than before, and waits until one of them has taken over.
fn restart_gateways(admin: &Kubectl) {
    let gateways = ["-n", "podtap-gateway"];
    admin.run(&[&gateways[..], &["rollout", "restart", "deployment/podtap-gateway"]].concat()).unwrap();
    let status = ["rollout", "status", "deployment/podtap-gateway", "--timeout=80s"];
    admin.cluster.kubectl_within(SOON, &[&gateways[..], &status].concat()).unwrap();
    wait("a gateway that leads", SOON, || {
        let lease = admin.cluster.get_json(&["-n", "podtap-gateway", "lease", "podtap-gateway"])?;
        let pods = admin.cluster.get_json(&[&gateways[..], &["pods"]].concat())?;
        let holds = |pod: &Value| {
            let metadata = &pod["metadata"];
            metadata["name"] == lease["spec"]["holderIdentity"] && metadata["deletionTimestamp"].is_null()
        };
        Ok(pods["items"].as_array().unwrap().iter().any(holds).then_some(()))
    })
    .unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_default_policy_is_made_once_whatever_image_was_named_first() {
    let admin = admin();
    let policy = default_policy(&admin);
    assert_eq!(policy["spec"]["namespaceSelector"]["matchLabels"], json!({"podtap.dev/allow": "true"}));
    assert_eq!(policy["spec"]["caps"]["duration"], "10m");

    // As on a new cluster, with an image that no node has.
    let gateways = ["-n", "podtap-gateway"];
    let scale = ["scale", "deployment/podtap-gateway", "--replicas=0"];
    admin.run(&[&gateways[..], &scale].concat()).unwrap();
    wait("the gateways to go", SOON, || {
        let pods = admin.run(&[&gateways[..], &["get", "pods", "-o", "name"]].concat())?;
        Ok(pods.trim().is_empty().then_some(()))
    })
    .unwrap();
    let forget = ["annotate", "configmap", "podtap-default-policy", "podtap.dev/made-"];
    admin.run(&[&gateways[..], &forget].concat()).unwrap();
    admin.run(&["delete", "capturepolicy", "default"]).unwrap();
    let made = admin.run(&["kustomize", OVERLAY]).unwrap();
    let deployment = made.split("\n---\n").find(|text| text.contains("\nkind: Deployment\n")).unwrap();
    let missing = deployment.replace("registry.invalid/podtap:dev", "registry.invalid/podtap:none");
    assert_ne!(missing, deployment);
    output_within(&mut admin.cluster.command(&["apply", "-f", "-"]), &missing, SOON).unwrap();
    wait("a gateway that has no image", SOON, || {
        let pods = admin.cluster.get_json(&[&gateways[..], &["pods"]].concat())?;
        Ok(pods.to_string().contains("podtap:none").then_some(()))
    })
    .unwrap();
    // With the right one.
    admin.run(&["apply", "-k", OVERLAY]).unwrap();
    default_policy(&admin);

    // As an admin leaves it.
    admin.run(&["annotate", "capturepolicy", "default", "podtap.dev/test=kept"]).unwrap();
    restart_gateways(&admin);
    assert_eq!(default_policy(&admin)["metadata"]["annotations"]["podtap.dev/test"], "kept");
    admin.run(&["delete", "capturepolicy", "default"]).unwrap();
    admin.run(&["apply", "-k", OVERLAY]).unwrap();
    restart_gateways(&admin);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(admin.run(&["get", "capturepolicy", "default", "--ignore-not-found"]).unwrap(), "");
    // And again, when an admin wants it.
    admin.run(&[&gateways[..], &forget].concat()).unwrap();
    restart_gateways(&admin);
    default_policy(&admin);
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
    // Nobody but the node can keep a kubelet from being answered.
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let asked = &agent[probe]["httpGet"];
        assert_eq!((&asked["host"], &asked["port"]), (&json!("127.0.0.1"), &json!("health")), "{probe}");
    }
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
