//! What people may do by their roles, and who may make policies and say to which namespaces they apply.

use podtap_tests::cluster::Namespace;
use podtap_tests::kubectl::Kubectl;
use serde_json::{Value, json};

use super::{CREATE, GATEWAY, admin};

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
