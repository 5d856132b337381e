//! What an agent may do on a cluster, and on which node.

use std::sync::atomic::{AtomicU32, Ordering};

use podtap_tests::cluster::Namespace;
use podtap_tests::kubectl::Kubectl;
use serde_json::json;

use super::{GATEWAY, admin, nodes, record};

const AGENT: &str = "system:serviceaccount:podtap-system:podtap-agent";

/// An agent's token, as it has it on that node.
struct Agent {
    admin: Kubectl,
    pod: String,
    kubectl: Kubectl,
}

impl Agent {
    fn on(node: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let admin = admin();
        // Of tests that run at once, each has its own.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pod = format!("token-{node}-{}-{number}", std::process::id());
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
