//! Who may have a pod captured by its label, whatever way the label comes to it.

use podtap_tests::cluster::{Namespace, SOON, wait};
use podtap_tests::kubectl::Kubectl;
use serde_json::{Value, json};

use super::{CREATE, admin, nodes};

const LABEL: &str = "podtap.dev/capture";

/// A pod that no node ever runs.
fn pod(name: &str, labels: Value, annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": pod_spec(),
    })
}

fn pod_spec() -> Value {
    json!({
        "schedulingGates": [{"name": "podtap.dev/test"}],
        "containers": [{"name": "c", "image": "podtap/none"}],
        "terminationGracePeriodSeconds": 0,
    })
}

fn captured() -> Value {
    json!({LABEL: "true"})
}

/// Two who may edit in that namespace, of whom jane may capture there.
fn dev_and_jane(admin: &Kubectl, space: &Namespace<'_>) -> (Kubectl, Kubectl) {
    for (role, user) in [("edit", "dev"), ("edit", "jane"), ("podtap-user", "jane")] {
        admin.bind(space.name(), role, user).unwrap();
    }
    (Kubectl::person("dev", &[]).unwrap(), Kubectl::person("jane", &[]).unwrap())
}

/// Workloads of every kind that hold a template.
fn workloads(labels: &Value) -> Vec<Value> {
    let mut labels = labels.clone();
    labels["app"] = json!("web");
    let selector = json!({"matchLabels": {"app": "web"}});
    let template = |policy: &str| {
        let mut spec = pod_spec();
        spec["restartPolicy"] = json!(policy);
        json!({"metadata": {"labels": labels}, "spec": spec})
    };
    let always = template("Always");
    let job = json!({"template": template("Never")});
    vec![
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"selector": selector, "template": always}}),
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": {"selector": selector, "template": always, "serviceName": "web"}}),
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "spec": {"selector": selector, "template": always}}),
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "spec": {"selector": selector, "template": always}}),
        json!({"apiVersion": "v1", "kind": "ReplicationController", "spec": {"selector": {"app": "web"}, "template": always}}),
        json!({"apiVersion": "v1", "kind": "PodTemplate", "template": always}),
        json!({"apiVersion": "batch/v1", "kind": "Job", "spec": job}),
        json!({"apiVersion": "batch/v1", "kind": "CronJob", "spec": {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": job}}}),
    ]
    .into_iter()
    .map(|mut workload| {
        let kind = workload["kind"].as_str().unwrap().to_lowercase();
        workload["metadata"] = json!({"name": format!("web-{kind}")});
        workload
    })
    .collect()
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_pod_is_labelled_by_who_may_capture_and_by_nobody_else() {
    let admin = admin();
    let space = Namespace::make(&admin.cluster, "label", &[]).unwrap();
    let in_space = ["-n", space.name()];
    let (dev, jane) = dev_and_jane(&admin, &space);
    let create: Vec<&str> = [&in_space[..], &CREATE].concat();

    let labelled = pod("new", captured(), json!({}));
    let said = dev.refused(&create, &labelled).unwrap();
    for word in ["podtap.dev/capture", "dev may not create packetcaptures", space.name(), "podtap-user"] {
        assert!(said.contains(word), "{word} is not in: {said}");
    }
    jane.send(&create, &labelled).unwrap();
    dev.send(&create, &pod("plain", json!({"app": "web"}), json!({"podtap.dev/filter": "tcp"}))).unwrap();
    // Whatever the value: that it is no request is for the agent to say, to somebody who may ask.
    dev.refused(&create, &pod("new", json!({LABEL: "false"}), json!({}))).unwrap();

    // A pod that is there.
    let create_it: Vec<&str> = [&in_space[..], &["create", "-f", "-"]].concat();
    admin.send(&create_it, &pod("web", json!({"app": "web"}), json!({}))).unwrap();
    let dry = |kubectl: &Kubectl, arguments: &[&str]| {
        kubectl.run(&[&in_space[..], arguments, &["--dry-run=server"]].concat())
    };
    let label = ["label", "pod", "web", "podtap.dev/capture=true"];
    assert!(dry(&dev, &label).is_err());
    dry(&jane, &label).unwrap();
    let status = r#"--patch={"metadata":{"labels":{"podtap.dev/capture":"true"}}}"#;
    // By way of the status, which has the labels too: a role for it alone is rare, but there are some.
    let patch = ["patch", "pod", "web", "--subresource=status", "--type=merge", status];
    admin
        .run(
            &[
                &in_space[..],
                &["create", "role", "status", "--verb=get,patch", "--resource=pods/status,pods"],
            ]
            .concat(),
        )
        .unwrap();
    admin
        .run(&[&in_space[..], &["create", "rolebinding", "status", "--role=status", "--user=dev"]].concat())
        .unwrap();
    let said = dev.run(&[&in_space[..], &patch].concat()).unwrap_err().to_string();
    assert!(said.contains("may not create packetcaptures"), "{said}");

    // A pod that is captured: its settings are part of the request, ending it is not, and all else is as before.
    admin.run(&[&in_space[..], &label].concat()).unwrap();
    for change in ["podtap.dev/filter=tcp", "podtap.dev/duration=10h"] {
        assert!(dry(&dev, &["annotate", "pod", "web", change]).is_err(), "{change}");
        dry(&jane, &["annotate", "pod", "web", change]).unwrap();
    }
    admin.run(&[&in_space[..], &["annotate", "pod", "web", "podtap.dev/filter=tcp"]].concat()).unwrap();
    assert!(dry(&dev, &["annotate", "pod", "web", "podtap.dev/filter-"]).is_err());
    assert!(dry(&dev, &["annotate", "--overwrite", "pod", "web", "podtap.dev/filter=udp"]).is_err());
    dry(&dev, &["annotate", "pod", "web", "team=blue"]).unwrap();
    dry(&dev, &["label", "pod", "web", "team=blue"]).unwrap();
    dry(&dev, &["label", "pod", "web", "podtap.dev/capture-"]).unwrap();

    // A right in one namespace is none in another.
    let other = Namespace::make(&admin.cluster, "other", &[]).unwrap();
    for user in ["dev", "jane"] {
        admin.bind(other.name(), "edit", user).unwrap();
    }
    jane.refused(&[&["-n", other.name()][..], &CREATE].concat(), &labelled).unwrap();
    // A namespace's admin has the right, and can hand it on.
    admin.bind(other.name(), "admin", "boss").unwrap();
    let boss = Kubectl::person("boss", &[]).unwrap();
    boss.send(&[&["-n", other.name()][..], &CREATE].concat(), &labelled).unwrap();
    boss.run(&["-n", other.name(), "create", "rolebinding", "x", "--clusterrole=podtap-user", "--user=jane"])
        .unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn templates_are_looked_at_like_the_pods_that_come_of_them() {
    let admin = admin();
    let space = Namespace::make(&admin.cluster, "templates", &[]).unwrap();
    let (dev, jane) = dev_and_jane(&admin, &space);
    let create: Vec<&str> = [&["-n", space.name()][..], &CREATE].concat();
    // `edit` does not cover these, but other roles may.
    admin
        .run(&[
            "-n",
            space.name(),
            "create",
            "role",
            "more",
            "--verb=create,update,patch,get",
            "--resource=podtemplates",
        ])
        .unwrap();
    for user in ["dev", "jane"] {
        let user_flag = format!("--user={user}");
        admin
            .run(&[
                "-n",
                space.name(),
                "create",
                "rolebinding",
                &format!("more-{user}"),
                "--role=more",
                &user_flag,
            ])
            .unwrap();
    }
    for (plain, labelled) in workloads(&json!({})).iter().zip(workloads(&captured())) {
        let kind = &plain["kind"];
        dev.send(&create, plain).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
        let said = dev.refused(&create, &labelled).unwrap();
        assert!(said.contains("podtap-user") && said.contains("template"), "{kind}: {said}");
        jane.send(&create, &labelled).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
    }
    // What was allowed once is no hindrance to others' changes of the rest.
    let apply = ["-n", space.name(), "apply", "-f", "-"];
    let mut deployment = workloads(&captured()).remove(0);
    jane.send(&apply, &deployment).unwrap();
    deployment["spec"]["replicas"] = json!(2);
    dev.send(&apply, &deployment).unwrap();
    deployment["spec"]["template"]["metadata"]["annotations"] = json!({"podtap.dev/duration": "10h"});
    dev.refused(&apply, &deployment).unwrap();
    // The controllers make the pods.
    for workload in workloads(&captured()).iter().skip(1).filter(|workload| workload["kind"] != "PodTemplate")
    {
        jane.send(&apply, workload).unwrap();
    }
    jane.run(&["-n", space.name(), "create", "job", "now", "--from=cronjob/web-cronjob"]).unwrap();
    let owners = [
        "web-deployment",
        "web-statefulset",
        "web-daemonset",
        "web-replicaset",
        "web-replicationcontroller",
        "web-job",
        "now",
    ];
    wait("a pod of each workload", SOON, || {
        let pods = space.get_json(&["pods", "-l", "podtap.dev/capture=true"])?;
        let names: Vec<&str> = pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .collect();
        for owner in owners {
            anyhow::ensure!(names.iter().any(|name| name.starts_with(owner)), "{owner} has none: {names:?}");
        }
        Ok(Some(()))
    })
    .unwrap();
    // Any other controller is asked like a person.
    let robot = format!("system:serviceaccount:{}:robot", space.name());
    admin.bind(space.name(), "edit", &robot).unwrap();
    Kubectl::person(&robot, &[]).unwrap().refused(&create, &pod("x", captured(), json!({}))).unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_kubelet_shows_its_static_pods() {
    let admin = admin();
    let node = nodes(&admin).remove(0);
    let uid = admin.cluster.get_json(&["node", &node]).unwrap()["metadata"]["uid"].clone();
    let mut mirror = pod(&format!("static-{node}"), captured(), json!({"kubernetes.io/config.mirror": "x"}));
    mirror["metadata"]["namespace"] = json!("default");
    mirror["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid, "controller": true}]);
    mirror["spec"] = json!({"nodeName": node, "containers": [{"name": "c", "image": "podtap/none"}]});
    Kubectl::person(&format!("system:node:{node}"), &["system:nodes"])
        .unwrap()
        .send(&CREATE, &mirror)
        .unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn what_reaches_a_pod_by_a_revision_or_a_binding_is_looked_at_too() {
    let admin = admin();
    let space = Namespace::make(&admin.cluster, "ways", &[]).unwrap();
    let in_space = ["-n", space.name()];
    admin.bind(space.name(), "podtap-user", "jane").unwrap();
    for (role, resource) in [("revisions", "controllerrevisions.apps"), ("bindings", "pods/binding")] {
        let resource = format!("--resource={resource}");
        let make = ["create", "role", role, "--verb=create,update,patch,get", &resource];
        admin.run(&[&in_space[..], &make].concat()).unwrap();
        let role_flag = format!("--role={role}");
        let bind = ["create", "rolebinding", role, &role_flag, "--user=dev", "--user=jane"];
        admin.run(&[&in_space[..], &bind].concat()).unwrap();
    }
    let (dev, jane) = (Kubectl::person("dev", &[]).unwrap(), Kubectl::person("jane", &[]).unwrap());

    let revision = |labels: Value| {
        let template = json!({"$patch": "replace", "metadata": {"labels": labels}, "spec": pod_spec()});
        json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "web-1"}, "revision": 1,
            "data": {"spec": {"template": template}},
        })
    };
    let create = [&in_space[..], &CREATE].concat();
    dev.send(&create, &revision(json!({"app": "web"}))).unwrap();
    let said = dev.refused(&create, &revision(captured())).unwrap();
    assert!(said.contains("podtap-user") && said.contains("template"), "{said}");
    jane.send(&create, &revision(captured())).unwrap();

    // What a binding carries becomes the pod's.
    admin
        .send(&[&in_space[..], &["create", "-f", "-"]].concat(), &pod("web", captured(), json!({})))
        .unwrap();
    let path = format!("/api/v1/namespaces/{}/pods/web/binding?dryRun=All", space.name());
    let bind = |who: &Kubectl, labels: Value, annotations: Value| {
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": "web", "labels": labels, "annotations": annotations},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "nowhere"},
        });
        who.send(&["create", "--raw", &path, "-f", "-"], &binding).err().map(|error| format!("{error:#}"))
    };
    let forbidden =
        |said: Option<String>| said.is_some_and(|said| said.contains("may not create packetcaptures"));
    for (labels, annotations) in [
        (captured(), json!({})),
        (json!({"podtap.dev/other": "x"}), json!({})),
        (json!({}), json!({"podtap.dev/duration": "10h"})),
    ] {
        assert!(forbidden(bind(&dev, labels.clone(), annotations.clone())), "{labels} {annotations}");
        assert!(!forbidden(bind(&jane, labels, annotations)));
    }
    assert!(!forbidden(bind(&dev, json!({"team": "blue"}), json!({"team": "blue"}))));
}
