use super::*;

fn yaml(text: &str) -> Manifest {
    parse(text, Format::Yaml).unwrap()
}

fn only_pod(text: &str) -> PodObject {
    let manifest = yaml(text);
    assert!(manifest.complaints.is_empty() && manifest.pods.len() == 1, "{manifest:?}");
    manifest.pods.into_iter().next().unwrap()
}

fn problem(text: &str) -> String {
    only_pod(text).problem.expect("a problem").message
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: web
  labels: {podtap.dev/capture: \"true\", app: web}
  annotations: {podtap.dev/interface: veth0, other.dev/x: y}
spec: {containers: [{name: web, image: web}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: \"fd00::1\"}]}
";

#[test]
fn a_pod_is_read() {
    let pod = only_pod(POD);
    assert_eq!((pod.pod.namespace.as_str(), pod.pod.name.as_str()), ("default", "web"));
    assert_eq!(pod.pod.uid, names::derived_uid("Pod", "default", "web"));
    assert_eq!(pod.pod.labels["app"], "web");
    assert_eq!(pod.annotations["other.dev/x"], "y");
    assert_eq!(pod.pod.place, Some(Place::Interface("veth0".into())));
    assert_eq!(pod.pod.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]);
    assert_eq!(pod.problem, None);
}

#[test]
fn a_pod_of_kubernetes_is_found_by_what_it_is() {
    let pod = |more: &str| {
        let text = POD.replace("annotations: {podtap.dev/interface: veth0, other.dev/x: y}", more);
        match only_pod(&text).pod.place {
            Some(Place::Pod(place)) => place,
            other => panic!("{other:?}"),
        }
    };
    let place = pod("uid: abc");
    assert_eq!(
        (place.namespace.as_str(), place.name.as_str(), place.uid.as_str()),
        ("default", "web", "abc")
    );
    assert_eq!(
        (place.sandbox_uids, place.addresses.len(), place.interface),
        (vec!["abc".to_owned()], 2, None)
    );
    let place = pod("uid: abc\n  annotations: {kubernetes.io/config.hash: h}");
    assert_eq!(place.sandbox_uids, ["abc", "h"]);
    // Its addresses may be another's by now.
    assert!(pod("uid: abc\n  deletionTimestamp: \"2026-01-01T00:00:00Z\"").addresses.is_empty());
}

#[test]
fn many_documents_lists_and_json_are_read() {
    let capture = "apiVersion: podtap.dev/v1alpha1
kind: PacketCapture
metadata: {name: all, namespace: team-a, uid: abc}
spec: {podSelector: {}, limits: {packets: 1k}, filter: }
";
    let manifest = yaml(&format!("---\n{POD}---\n# nothing\n---\n{capture}"));
    assert_eq!((manifest.pods.len(), manifest.captures.len(), manifest.complaints.len()), (1, 1, 0));
    let read = &manifest.captures[0];
    assert_eq!((read.namespace.as_str(), read.name.as_str(), read.uid.as_str()), ("team-a", "all", "abc"));
    let spec = read.spec.as_ref().unwrap();
    assert_eq!(spec.limits.as_ref().unwrap().packets, Some("1k".into()));
    assert_eq!(spec.filter, None);

    let list = r#"{"apiVersion":"v1","kind":"List","items":[
        {"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","annotations":{"podtap.dev/netns":"/run/netns/a"}}}]}
        {"apiVersion":"v1","kind":"Pod","metadata":{"name":"b"}}"#;
    let manifest = parse(list, Format::Json).unwrap();
    let names: Vec<_> = manifest.pods.iter().map(|pod| pod.pod.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(manifest.pods[0].pod.place, Some(Place::Netns("/run/netns/a".into())));
}

#[test]
fn what_should_have_been_quoted_is_said() {
    let unquoted = POD.replace("\"true\"", "true");
    assert_eq!(
        problem(&unquoted),
        "metadata.labels: podtap.dev/capture is no text; write \"true\" in quotes."
    );
    // It is still known that the pod should be captured, so that the refusal has a record.
    assert_eq!(only_pod(&unquoted).pod.labels["podtap.dev/capture"], "true");
    assert_eq!(
        problem(&POD.replace("other.dev/x: y", "podtap.dev/max-packets: 100")),
        "metadata.annotations: podtap.dev/max-packets is no text; write \"100\" in quotes."
    );
}

#[test]
fn a_pod_that_cannot_be_captured_says_why() {
    let shared = problem(&POD.replace("{containers", "{hostNetwork: true, containers"));
    assert!(shared.contains("node's own network"), "{shared}");
    assert!(
        problem(&POD.replace("spec: {containers: [{name: web, image: web}]}", "spec: no")).contains("read")
    );
    let place = |text: &str| problem(&POD.replace("podtap.dev/interface: veth0", text));
    assert!(place("a: b").contains("podtap.dev/netns"));
    assert!(place("podtap.dev/interface: veth0, podtap.dev/netns: /x").contains("both set"));
    assert!(place("podtap.dev/netns: x/y").contains("no absolute path"));
    for name in ["\"\"", "..", "a/b", "a b", "veth0123456789ab", "\"a:b\""] {
        let message = place(&format!("podtap.dev/interface: {name}"));
        assert!(message.contains("no interface's name"), "{message}");
    }
}

#[test]
fn what_belongs_to_nobody_is_complained_of() {
    let complaint = |text: &str| {
        let manifest = yaml(text);
        assert!(manifest.pods.is_empty() && manifest.captures.is_empty());
        manifest.complaints.join(";")
    };
    assert!(complaint("just text").contains("\"just text\", which is no object"));
    assert!(complaint("metadata: {name: x}").contains("without a kind"));
    assert!(complaint("{apiVersion: v1, kind: Pod}").contains("without metadata.name"));
    for name in ["../x", "/etc", "A", "\"\"", "12", "\"a\\0b\""] {
        let text = complaint(&format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}"));
        assert!(text.contains("is no name"), "{text}");
    }
    let text = complaint("{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: ../y}}");
    assert!(text.contains("\"../y\" is no namespace"), "{text}");
    let service = yaml("{apiVersion: v1, kind: Service, metadata: {name: x}}");
    assert!(service.ignored[0].contains("Service default/x") && service.complaints.is_empty(), "{service:?}");
    let text = complaint("{apiVersion: podtap.dev/v1, kind: PacketCapture, metadata: {name: x}}");
    assert!(text.contains("write podtap.dev/v1alpha1"), "{text}");
}

fn captured(spec: &str) -> Manifest {
    yaml(&format!("{{apiVersion: {API_VERSION}, kind: PacketCapture, metadata: {{name: c}}, spec: {spec}}}"))
}

#[test]
fn a_bad_field_refuses_the_capture_and_a_bad_selector_leaves_nobody_to_tell() {
    let manifest = captured("{podNames: [a], durration: 1m}");
    let refusal = manifest.captures[0].spec.as_ref().unwrap_err();
    assert_eq!(refusal.reason, reasons::UNKNOWN_FIELD);
    assert_eq!(refusal.message, "There is no field spec.durration: did you mean spec.duration?");
    assert!(manifest.captures[0].selection.selects("a", &BTreeMap::new()));

    for spec in ["{podSelector: {matchLabel: {}}}", "{podNames: a}", "{filter: tcp}", "[]"] {
        let manifest = captured(spec);
        assert!(manifest.captures.is_empty(), "{spec}");
        assert!(manifest.complaints[0].starts_with("PacketCapture default/c: "), "{manifest:?}");
    }
    let top = yaml(&format!(
        "{{apiVersion: {API_VERSION}, kind: PacketCapture, metadata: {{name: c}}, spec: {{podSelector: {{}}}}, sepc: 1}}"
    ));
    let refusal = top.captures[0].spec.as_ref().unwrap_err();
    assert_eq!(refusal.message, "There is no field sepc: did you mean spec?");
}

#[test]
fn half_a_manifest_is_an_error_that_says_where() {
    let error = parse("kind: Pod\nmetadata: {name: we", Format::Yaml).unwrap_err();
    assert!(error.contains("line 2") && !error.contains('\n'), "{error}");
    assert!(parse("{\"kind\": \"Po", Format::Json).is_err());
    assert!(parse(&"[".repeat(100_000), Format::Yaml).is_err());
    assert!(parse(&"[".repeat(100_000), Format::Json).is_err());
    let laughs = (1..30).fold("a0: &a0 [x]\n".to_owned(), |text, n| {
        let alias = format!("*a{}", n - 1);
        format!("{text}a{n}: &a{n} [{}]\n", [alias.as_str(); 10].join(", "))
    });
    assert!(parse(&laughs, Format::Yaml).is_err());
}
