//! Who may do what on a cluster: roles, and what admission adds to them. Each refusal must say what to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::sync::OnceLock;

use podtap_tests::cluster::{Namespace, SOON, wait};
use podtap_tests::kubectl::Kubectl;
use serde_json::{Value, json};

const CREATE: [&str; 4] = ["create", "--dry-run=server", "-f", "-"];
const LABEL: &str = "podtap.dev/capture";
const AGENT: &str = "system:serviceaccount:podtap-system:podtap-agent";
const GATEWAY: &str = "system:serviceaccount:podtap-gateway:podtap-gateway";

/// The cluster with podtap's definitions, roles and policies in force.
fn admin() -> Kubectl {
    static READY: OnceLock<()> = OnceLock::new();
    let kubectl = Kubectl::admin().unwrap();
    READY.get_or_init(|| {
        let overlay = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/default");
        kubectl.run(&["apply", "-k", overlay]).unwrap();
        // The API server takes up a new policy after a moment.
        let stranger = Kubectl::person("stranger", &["system:masters"]).unwrap();
        let stranger_record = record("default", "r", "node1");
        wait("the admission policies", SOON, || stranger.refused(&CREATE, &stranger_record).map(Some))
            .unwrap();
    });
    kubectl
}

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

fn record(namespace: &str, name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "podtap.dev/v1alpha1", "kind": "PodCapture",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"pod": "web", "podUID": "u", "namespaceUID": "n", "request": "Label", "node": node},
    })
}

/// An agent's token, as it has it on that node.
struct Agent {
    admin: Kubectl,
    pod: String,
    kubectl: Kubectl,
}

impl Agent {
    fn on(node: &str) -> Self {
        let admin = admin();
        let pod = format!("token-{node}-{}", std::process::id());
        // Its image is nowhere, so it never runs; that it is bound to the node is all that counts.
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "namespace": "podtap-system"},
            "spec": {
                "serviceAccountName": "podtap-agent", "nodeName": node, "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "podtap/none", "imagePullPolicy": "Never"}],
            },
        });
        admin.send(&["create", "-f", "-"], &object).unwrap();
        let request = ["-n", "podtap-system", "create", "token", "podtap-agent", "--bound-object-kind=Pod"];
        let name = format!("--bound-object-name={pod}");
        let token = admin.run(&[&request[..], &[&name]].concat()).unwrap();
        let kubectl = admin.token(token.trim()).unwrap();
        Self { admin, pod, kubectl }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ =
            self.admin.run(&["-n", "podtap-system", "delete", "pod", &self.pod, "--force", "--wait=false"]);
    }
}

fn nodes(kubectl: &Kubectl) -> Vec<String> {
    kubectl.cluster.nodes().unwrap()
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_pod_is_labelled_by_who_may_capture_and_by_nobody_else() {
    let admin = admin();
    let space = Namespace::make(&admin.cluster, "label", &[]).unwrap();
    let in_space = ["-n", space.name()];
    admin.bind(space.name(), "edit", "dev").unwrap();
    admin.bind(space.name(), "edit", "jane").unwrap();
    admin.bind(space.name(), "podtap-user", "jane").unwrap();
    let (dev, jane) = (Kubectl::person("dev", &[]).unwrap(), Kubectl::person("jane", &[]).unwrap());
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
        admin
            .run(&[
                "-n",
                other.name(),
                "create",
                "rolebinding",
                user,
                "--clusterrole=edit",
                &format!("--user={user}"),
            ])
            .unwrap();
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
    admin.bind(space.name(), "edit", "dev").unwrap();
    admin.bind(space.name(), "edit", "jane").unwrap();
    admin.bind(space.name(), "podtap-user", "jane").unwrap();
    let (dev, jane) = (Kubectl::person("dev", &[]).unwrap(), Kubectl::person("jane", &[]).unwrap());
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
fn records_are_written_by_the_agent_of_their_node_only() {
    let admin = admin();
    let space = Namespace::make(&admin.cluster, "records", &[]).unwrap();
    let nodes = nodes(&admin);
    let [one, two] = [&nodes[0], &nodes[1]];
    let (agent, other) = (Agent::on(one), Agent::on(two));
    let create = ["create", "-f", "-"];
    let name = space.name();

    agent.kubectl.send(&create, &record(name, "own", one)).unwrap();
    let said = agent.kubectl.refused(&create, &record(name, "forged", two)).unwrap();
    assert!(said.contains("own node only") && said.contains(one) && said.contains(two), "{said}");
    // Nobody makes one by hand, whatever rights they have, nor with the agent's name alone.
    let said = admin.refused(&create, &record(name, "forged", one)).unwrap();
    assert!(said.contains("PacketCapture"), "{said}");
    let said = Kubectl::person(AGENT, &[]).unwrap().refused(&create, &record(name, "forged", one)).unwrap();
    assert!(said.contains("bound to no node"), "{said}");
    Kubectl::person(GATEWAY, &[]).unwrap().refused(&create, &record(name, "forged", one)).unwrap();

    let show = |kubectl: &Kubectl, state: &str| {
        let patch = json!({"status": {"state": state}}).to_string();
        kubectl.run(&[
            "-n",
            name,
            "patch",
            "podcapture",
            "own",
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ])
    };
    show(&agent.kubectl, "Capturing").unwrap();
    assert!(show(&other.kubectl, "Completed").is_err());
    assert!(show(&admin, "Completed").is_err());
    show(&Kubectl::person(GATEWAY, &[]).unwrap(), "Failed").unwrap();
    let spec = |kubectl: &Kubectl, patch: &str| {
        kubectl.run(&["-n", name, "patch", "podcapture", "own", "--type=merge", "-p", patch])
    };
    spec(&agent.kubectl, r#"{"metadata":{"labels":{"podtap.dev/pod":"web"}}}"#).unwrap();
    for who in [&other.kubectl, &admin, &Kubectl::person(GATEWAY, &[]).unwrap()] {
        assert!(spec(who, r#"{"metadata":{"labels":{"podtap.dev/pod":"db"}}}"#).is_err());
    }
    // A record does not move, not even by who may write it.
    for field in [format!(r#"{{"node":"{two}"}}"#), r#"{"pod":"db"}"#.into(), r#"{"podUID":"v"}"#.into()] {
        let said = spec(&agent.kubectl, &format!(r#"{{"spec":{field}}}"#)).unwrap_err().to_string();
        assert!(said.contains("never changes") || said.contains("own node only"), "{field}: {said}");
    }
    // As agents write: server-side.
    let apply = ["apply", "--server-side", "--field-manager=test", "-f", "-"];
    agent.kubectl.send(&apply, &record(name, "applied", one)).unwrap();
    other.kubectl.refused(&apply, &record(name, "applied", one)).unwrap();

    let delete = |kubectl: &Kubectl, record: &str| kubectl.run(&["-n", name, "delete", "podcapture", record]);
    let said = delete(&other.kubectl, "own").unwrap_err().to_string();
    assert!(said.contains("own node only"), "{said}");
    delete(&agent.kubectl, "own").unwrap();
    delete(&Kubectl::person(GATEWAY, &[]).unwrap(), "applied").unwrap();
    // An admin may clean up, and so does the end of a namespace.
    agent.kubectl.send(&create, &record(name, "again", one)).unwrap();
    delete(&admin, "again").unwrap();
    agent.kubectl.send(&create, &record(name, "last", one)).unwrap();
    admin.run(&["delete", "namespace", name, "--timeout=25s"]).unwrap();
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn an_agent_can_do_what_it_needs_and_no_more() {
    let admin = admin();
    let agent = Agent::on(&nodes(&admin)[0]);
    let may = |verb: &str, what: &str| agent.kubectl.may(None, verb, what).unwrap();
    for (verbs, what) in [
        (&["get", "list", "watch"][..], "pods"),
        (&["get", "list", "watch"], "namespaces"),
        (&["get", "list", "watch"], "packetcaptures.podtap.dev"),
        (&["get", "list", "watch"], "capturepolicies.podtap.dev"),
        (&["create", "patch", "delete"], "podcaptures.podtap.dev"),
        (&["patch"], "podcaptures.podtap.dev/status"),
        (&["create"], "events.events.k8s.io"),
    ] {
        for verb in verbs {
            assert!(may(verb, what), "an agent must {verb} {what}");
        }
    }
    for (verbs, what) in [
        (&["create", "update", "patch", "delete"][..], "pods"),
        (&["create", "get"], "pods/exec"),
        (&["get"], "pods/log"),
        (&["update", "patch"], "pods/status"),
        (&["get", "list"], "secrets"),
        (&["get", "list"], "configmaps"),
        (&["create", "update", "patch", "delete"], "namespaces"),
        (&["get", "list", "update", "patch"], "nodes"),
        (&["get"], "nodes/proxy"),
        (&["create", "update", "patch", "delete"], "packetcaptures.podtap.dev"),
        (&["update", "patch"], "packetcaptures.podtap.dev/status"),
        (&["create", "update", "patch", "delete"], "capturepolicies.podtap.dev"),
        (&["update", "deletecollection"], "podcaptures.podtap.dev"),
        (&["get", "list"], "podcaptures.podtap.dev/files"),
        (&["create"], "serviceaccounts/token"),
        (&["create"], "subjectaccessreviews.authorization.k8s.io"),
        (&["update"], "validatingadmissionpolicies.admissionregistration.k8s.io"),
    ] {
        for verb in verbs {
            assert!(!may(verb, what), "an agent can {verb} {what}");
        }
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn people_have_what_their_roles_say() {
    let admin = admin();
    let space = Namespace::make(&admin.cluster, "roles", &[]).unwrap();
    let people = ["podtap-user", "view", "edit", "admin"];
    for role in people {
        admin.bind(space.name(), role, &format!("{role}-person")).unwrap();
    }
    for role in ["podtap-auditor", "podtap-admin"] {
        let name = format!("test-{role}-{}", std::process::id());
        let (role_flag, user_flag) = (format!("--clusterrole={role}"), format!("--user={role}-person"));
        admin.run(&["create", "clusterrolebinding", &name, &role_flag, &user_flag]).unwrap();
    }
    let may = |who: &str, verb: &str, what: &str| {
        let namespace = Some(space.name()).filter(|_| !what.starts_with("capturepolicies"));
        Kubectl::person(&format!("{who}-person"), &[]).unwrap().may(namespace, verb, what).unwrap()
    };
    let mut wrong = Vec::new();
    for (verb, what, who) in [
        ("create", "packetcaptures.podtap.dev", &["podtap-user", "admin", "podtap-admin"][..]),
        (
            "list",
            "packetcaptures.podtap.dev",
            &["podtap-user", "view", "edit", "admin", "podtap-auditor", "podtap-admin"],
        ),
        (
            "list",
            "podcaptures.podtap.dev",
            &["podtap-user", "view", "edit", "admin", "podtap-auditor", "podtap-admin"],
        ),
        ("update", "podcaptures.podtap.dev", &[]),
        ("delete", "podcaptures.podtap.dev", &["podtap-admin"]),
        ("update", "packetcaptures.podtap.dev/status", &[]),
        ("get", "podcaptures.podtap.dev/files", &["podtap-user", "admin", "podtap-admin"]),
        ("delete", "podcaptures.podtap.dev/files", &["podtap-user", "admin", "podtap-admin"]),
        ("get", "podcaptures.podtap.dev/stream", &["podtap-user", "admin", "podtap-admin"]),
        ("update", "capturepolicies.podtap.dev", &["podtap-admin"]),
        ("list", "capturepolicies.podtap.dev", &["podtap-auditor", "podtap-admin"]),
        ("get", "secrets", &["edit", "admin"]),
    ] {
        for person in ["podtap-user", "view", "edit", "admin", "podtap-auditor", "podtap-admin"] {
            if may(person, verb, what) != who.contains(&person) {
                wrong.push(format!("{person}: {verb} {what}: expected {}", who.contains(&person)));
            }
        }
    }
    for role in ["podtap-auditor", "podtap-admin"] {
        let name = format!("test-{role}-{}", std::process::id());
        admin.run(&["delete", "clusterrolebinding", &name]).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_namespace_is_allowed_by_who_makes_policies() {
    let admin = admin();
    let id = std::process::id();
    let (role, binding) = (format!("test-namespaces-{id}"), format!("test-namespaces-{id}"));
    admin
        .run(&[
            "create",
            "clusterrole",
            &role,
            "--verb=get,create,update,patch",
            "--resource=namespaces,namespaces/status,namespaces/finalize",
        ])
        .unwrap();
    admin
        .run(&[
            "create",
            "clusterrolebinding",
            &binding,
            &format!("--clusterrole={role}"),
            "--user=owner",
            "--user=governor",
        ])
        .unwrap();
    let policies = format!("test-policies-{id}");
    admin
        .run(&["create", "clusterrolebinding", &policies, "--clusterrole=podtap-admin", "--user=governor"])
        .unwrap();
    let space = Namespace::make(&admin.cluster, "allow", &[]).unwrap();
    let (owner, governor) =
        (Kubectl::person("owner", &[]).unwrap(), Kubectl::person("governor", &[]).unwrap());
    let label = |kubectl: &Kubectl, label: &str| {
        kubectl.run(&["label", "--overwrite", "--dry-run=server", "namespace", space.name(), label])
    };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let said = label(&owner, "podtap.dev/allow=true").unwrap_err().to_string();
        assert!(said.contains("capturepolicies") && said.contains("admin of the cluster"), "{said}");
        label(&owner, "podtap.dev/tier=gold").unwrap_err();
        label(&owner, "team=blue").unwrap();
        label(&governor, "podtap.dev/allow=true").unwrap();
        admin.run(&["label", "namespace", space.name(), "podtap.dev/allow=true"]).unwrap();
        label(&owner, "podtap.dev/allow=false").unwrap_err();
        label(&owner, "podtap.dev/allow-").unwrap_err();
        label(&owner, "team=blue").unwrap();
        // A new one, and by way of the status.
        let new = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": format!("allowed-{id}"), "labels": {"podtap.dev/allow": "true"}},
        });
        owner.refused(&CREATE, &new).unwrap();
        governor.send(&CREATE, &new).unwrap();
        let patch = r#"--patch={"metadata":{"labels":{"podtap.dev/allow":"no"}}}"#;
        let status = ["patch", "namespace", space.name(), "--subresource=status", "--type=merge", patch];
        let said = owner.run(&status).unwrap_err().to_string();
        assert!(said.contains("capturepolicies"), "{said}");
    }));
    for binding in [&binding, &policies] {
        admin.run(&["delete", "clusterrolebinding", binding]).unwrap();
    }
    admin.run(&["delete", "clusterrole", &role]).unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn an_agent_can_neither_have_records_kept_nor_say_later_whose_they_are() {
    let admin = admin();
    let space = Namespace::make(&admin.cluster, "kept", &[]).unwrap();
    let node = nodes(&admin).remove(0);
    let agent = Agent::on(&node);
    let create = ["create", "-f", "-"];
    let owner = json!([{"apiVersion": "v1", "kind": "Namespace", "name": space.name(), "uid": "u"}]);
    for (field, value) in [("finalizers", json!(["podtap.dev/kept"])), ("ownerReferences", owner)] {
        let mut kept = record(space.name(), "kept", &node);
        kept["metadata"][field] = value;
        let said = agent.kubectl.refused(&create, &kept).unwrap();
        assert!(said.contains("neither finalizers nor owners"), "{field}: {said}");
    }
    agent.kubectl.send(&create, &record(space.name(), "own", &node)).unwrap();
    let patch = |patch: &str| {
        let words = ["-n", space.name(), "patch", "podcapture", "own", "--type=merge", "-p", patch];
        agent.kubectl.run(&words).map_err(|error| format!("{error:#}"))
    };
    let said = patch(r#"{"metadata":{"finalizers":["podtap.dev/kept"]}}"#).unwrap_err();
    assert!(said.contains("neither finalizers nor owners"), "{said}");
    for field in [r#""namespaceUID":null"#, r#""capture":"c""#, r#""requestUID":"r""#] {
        let said = patch(&format!(r#"{{"spec":{{{field}}}}}"#)).unwrap_err();
        assert!(said.contains("never changes"), "{field}: {said}");
    }
    patch(r#"{"metadata":{"labels":{"podtap.dev/pod":"web"}}}"#).unwrap();
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

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_gateway_makes_the_default_policy_and_no_other() {
    let _in_force = admin();
    let gateway = Kubectl::person(GATEWAY, &[]).unwrap();
    let policy = |name: &str, selector: Value| {
        json!({
            "apiVersion": "podtap.dev/v1alpha1", "kind": "CapturePolicy", "metadata": {"name": name},
            "spec": {"namespaceSelector": selector},
        })
    };
    let allowed = json!({"matchLabels": {"podtap.dev/allow": "true"}});
    for other in [policy("other", allowed.clone()), policy("default", json!({}))] {
        let said = gateway.refused(&CREATE, &other).unwrap();
        assert!(said.contains("an admin makes others"), "{said}");
    }
    if let Err(error) = gateway.send(&CREATE, &policy("default", allowed)) {
        assert!(error.to_string().contains("already exists"), "{error:#}");
    }
    for verb in ["update", "patch", "delete"] {
        assert!(!gateway.may(None, verb, "capturepolicies.podtap.dev").unwrap(), "{verb}");
    }
    // Of agents it may see the configuration, and nothing else there.
    for (what, may) in
        [("configmap/podtap-agent", "yes"), ("configmaps", "no"), ("secrets", "no"), ("pods", "no")]
    {
        let ask = ["auth", "can-i", "get", what, "-n", "podtap-system"];
        let output = gateway.command(&ask).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), may, "{what}");
    }
}
