//! The overlay for OpenShift: there is no OpenShift to try it on, so what it consists of is compared with what it needs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use podtap_tests::cluster::{Cluster, SOON};
use podtap_tests::process::output_within;

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_overlay_for_openshift_is_made_of_openshifts_objects() {
    let cluster = Cluster::get().unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let overlay = here.join("../deploy/overlays/openshift");
    let made = cluster.kubectl(&["kustomize", overlay.to_str().unwrap()]).unwrap();
    // What all others make, by the API server; it does not know OpenShift's.
    let (openshift, others): (Vec<&str>, Vec<&str>) = made.split("\n---\n").partition(|document| {
        ["security.openshift.io/", "template.openshift.io/"].iter().any(|group| document.contains(group))
    });
    assert_eq!(openshift.len(), 2);
    // A job that is there cannot be changed into another.
    let others: Vec<&str> =
        others.into_iter().filter(|document| !document.contains("\nkind: Job\n")).collect();
    assert!(others.len() > 30);
    let mut apply =
        cluster.command(&["apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-"]);
    output_within(&mut apply, &others.join("\n---\n"), SOON).unwrap();

    // OpenShift's, by its own types.
    let go = Path::new("/usr/local/go/bin/go");
    let mut check = Command::new(if go.is_file() { go } else { Path::new("go") });
    check.args(["run", "."]).current_dir(here.join("openshift"));
    let checked = output_within(&mut check, &made, Duration::from_secs(300)).unwrap();
    let lines: Vec<&str> = checked.lines().collect();
    let [constraints, template, capture] = lines[..] else { panic!("{checked}") };
    assert_eq!(
        (constraints, template),
        ("SecurityContextConstraints podtap-agent", "Template podtap-capture")
    );
    // What the template makes is a capture.
    let mut create = cluster.command(&["create", "--dry-run=server", "-n", "default", "-f", "-"]);
    output_within(&mut create, capture, SOON).unwrap();

    // The constraints allow what the agent asks for.
    let asked = |added: &str, until: &str| {
        let text = made.split(added).nth(1).and_then(|rest| rest.split(until).next()).unwrap();
        let mut names: Vec<String> =
            text.lines().map(|line| line.trim().trim_start_matches("- ").to_owned()).collect();
        names.retain(|name| !name.is_empty());
        names.sort();
        names
    };
    let allowed = asked("\nallowedCapabilities:\n", "apiVersion:");
    assert_eq!(allowed, asked("          capabilities:\n            add:\n", "            drop:"));
}
