//! The overlay for OpenShift. There is no OpenShift to try it on: an API server checks each object field by field, which of
//! OpenShift's own kinds by definitions made for that, and what must fit together is compared.

use std::time::Duration;

use anyhow::Result;
use podtap_tests::cluster::{Cluster, Namespace, SOON, wait};
use podtap_tests::process::output_within;
use serde_json::Value;

const OVERLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/openshift");
const DEFINITIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/openshift/definitions.yaml");

/// Kinds of OpenShift, taken away when dropped.
struct Definitions<'a>(&'a Cluster);

impl Drop for Definitions<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.kubectl(&["delete", "-f", DEFINITIONS, "--ignore-not-found"]) {
            eprintln!("OpenShift's kinds may be left: {error:#}");
        }
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_overlay_for_openshift_is_made_of_what_openshift_knows() {
    let Some(cluster) = Cluster::own().unwrap() else { return };
    let _definitions = Definitions(&cluster);
    cluster.kubectl(&["apply", "-f", DEFINITIONS]).unwrap();
    let _namespace = Namespace::named(&cluster, "openshift", &[]).unwrap();
    cluster
        .kubectl(&["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/default")])
        .unwrap();

    let made = cluster.kubectl(&["kustomize", OVERLAY]).unwrap();
    let arguments = ["apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"];
    let objects: Value = wait("OpenShift's kinds", SOON, || {
        let said = output_within(&mut cluster.command(&arguments), &made, Duration::from_secs(30))?;
        Ok(Some(serde_json::from_str(&said)?))
    })
    .unwrap();
    let objects = objects["items"].as_array().unwrap();
    assert!(objects.len() > 30);
    let one = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();

    // The constraints allow what the agent asks for, and nothing else.
    let (constraints, agent) =
        (one("SecurityContextConstraints"), &one("DaemonSet")["spec"]["template"]["spec"]);
    let asked = &agent["containers"][0]["securityContext"];
    assert_eq!(constraints["allowedCapabilities"], asked["capabilities"]["add"]);
    assert_eq!(constraints["requiredDropCapabilities"], asked["capabilities"]["drop"]);
    let profile = format!("localhost/{}", asked["seccompProfile"]["localhostProfile"].as_str().unwrap());
    assert!(constraints["seccompProfiles"].as_array().unwrap().iter().any(|allowed| *allowed == *profile));
    for volume in agent["volumes"].as_array().unwrap() {
        let kind = volume.as_object().unwrap().keys().find(|key| *key != "name").unwrap();
        assert!(
            constraints["volumes"].as_array().unwrap().iter().any(|allowed| *allowed == **kind),
            "{kind}"
        );
    }
    // OpenShift chooses users itself, except for the agent.
    let context = &one("Deployment")["spec"]["template"]["spec"]["securityContext"];
    assert!(context["runAsUser"].is_null() && context["runAsNonRoot"] == true, "{context}");

    // What the template makes is a capture.
    let template = one("Template");
    let capture = filled(template).unwrap();
    assert_eq!(capture["kind"], "PacketCapture");
    let create = ["create", "--dry-run=server", "-n", "default", "-f", "-"];
    output_within(&mut cluster.command(&create), &capture.to_string(), Duration::from_secs(30)).unwrap();
}

/// The template's object, with `x` for each parameter without a value: texts in `${}`, other values in `${{}}`.
fn filled(template: &Value) -> Result<Value> {
    let mut text = template["objects"][0].to_string();
    for parameter in template["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap_or_default();
        let value = parameter["value"].as_str().unwrap_or("x");
        text = text.replace(&format!("\"${{{{{name}}}}}\""), value).replace(&format!("${{{name}}}"), value);
    }
    anyhow::ensure!(!text.contains("${"), "{text}");
    Ok(serde_json::from_str(&text)?)
}
