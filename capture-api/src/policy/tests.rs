use serde_json::json;

use super::*;
use crate::GoDuration;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Selects every namespace.
fn policy(name: &str, mut rest: Value) -> Policy {
    rest["namespaceSelector"] = json!({});
    Policy::read(name, &rest)
}

fn capped(name: &str, caps: Value) -> Policy {
    policy(name, json!({ "caps": caps }))
}

fn of(policies: &[Policy]) -> Result<Governed, Refusal> {
    govern("team-a", &labels(&[]), policies, &Caps { whose: "namespace", ..Caps::default() })
}

fn caps(policies: &[Policy]) -> Caps {
    of(policies).unwrap().caps
}

#[test]
fn a_namespace_that_no_policy_selects_may_not_capture_and_is_told_the_way_out() {
    let shipped =
        Policy::read("default", &json!({"namespaceSelector": {"matchLabels": {"podtap.dev/allow": "true"}}}));
    let none = govern("team-a", &labels(&[("x", "y")]), [&shipped], &Caps::default()).unwrap_err();
    assert_eq!(none.reason, reasons::NOT_ALLOWED);
    assert!(none.message.contains("`kubectl label namespace team-a podtap.dev/allow=true`"), "{none}");
    assert_eq!(of(&[]).unwrap_err().reason, reasons::NOT_ALLOWED);
    let allowed = labels(&[("podtap.dev/allow", "true")]);
    let governed = govern("team-a", &allowed, [&shipped], &Caps::default()).unwrap();
    assert_eq!(governed, Governed { caps: Caps::default(), label_requests: true });
}

#[test]
fn the_tightest_of_every_cap_wins() {
    let wide = json!({"duration": "2h", "bytes": "2Gi", "packets": "1M", "snapLength": 1500, "packetsPerSecond": "10k",
        "bytesPerSecond": "10Mi", "captures": 50, "capturesPerHour": 500, "retention": "48h",
        "outputs": ["archive", "other"]});
    let wide_caps = Caps {
        duration: GoDuration::from_secs(7200),
        bytes: 2 << 30,
        packets: Some(1_000_000),
        snap_length: 1500,
        packets_per_second: Some(10_000),
        bytes_per_second: Some(10 << 20),
        captures: 50,
        captures_per_hour: Some(500),
        headers_only: false,
        retention: GoDuration::from_secs(48 * 3600),
        outputs: vec!["archive".into(), "other".into()],
        whose: "namespace",
    };
    assert_eq!(caps(&[capped("wide", wide.clone())]), wide_caps);
    for (tight, expected) in [
        (json!({"duration": "1m"}), Caps { duration: GoDuration::from_secs(60), ..wide_caps.clone() }),
        (json!({"bytes": "1Mi"}), Caps { bytes: 1 << 20, ..wide_caps.clone() }),
        (json!({"packets": 7}), Caps { packets: Some(7), ..wide_caps.clone() }),
        (json!({"snapLength": 96}), Caps { snap_length: 96, ..wide_caps.clone() }),
        (json!({"packetsPerSecond": 5}), Caps { packets_per_second: Some(5), ..wide_caps.clone() }),
        (json!({"bytesPerSecond": "1k"}), Caps { bytes_per_second: Some(1000), ..wide_caps.clone() }),
        (json!({"captures": 1}), Caps { captures: 1, ..wide_caps.clone() }),
        (json!({"capturesPerHour": 2}), Caps { captures_per_hour: Some(2), ..wide_caps.clone() }),
        (json!({"headersOnly": true}), Caps { headers_only: true, ..wide_caps.clone() }),
        (json!({"retention": "0s"}), Caps { retention: GoDuration::from_secs(0), ..wide_caps.clone() }),
        (json!({"outputs": ["other"]}), Caps { outputs: vec!["other".into()], ..wide_caps.clone() }),
        (json!({"outputs": []}), Caps { outputs: vec![], ..wide_caps.clone() }),
    ] {
        let both = [capped("wide", wide.clone()), capped("tight", tight.clone())];
        assert_eq!(caps(&both), expected, "{tight}");
        let reversed = [capped("tight", tight.clone()), capped("wide", wide.clone())];
        assert_eq!(caps(&reversed), expected, "{tight}");
    }
}

#[test]
fn what_no_policy_names_is_the_nodes() {
    let fallback = Caps { bytes: 5, captures: 9, ..Caps::default() };
    let only = [capped("a", json!({"duration": "1h"}))];
    let governed = govern("team-a", &labels(&[]), &only, &fallback).unwrap();
    assert_eq!(governed.caps, Caps { duration: GoDuration::from_secs(3600), ..fallback });
}

#[test]
fn one_suspended_policy_stops_all_and_other_namespaces_go_on() {
    let suspended =
        Policy::read("halt", &json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "suspended": true}));
    let policies = [capped("default", json!({})), suspended];
    let refusal = govern("team-a", &labels(&[("a", "b")]), &policies, &Caps::default()).unwrap_err();
    assert_eq!(refusal.reason, reasons::SUSPENDED);
    assert!(refusal.message.contains("CapturePolicy halt"), "{refusal}");
    assert!(of(&policies).is_ok());
}

#[test]
fn labels_start_captures_unless_one_policy_says_no() {
    let yes = policy("yes", json!({"labelRequests": true}));
    let no = policy("no", json!({"labelRequests": false}));
    assert!(of(std::slice::from_ref(&yes)).unwrap().label_requests);
    assert!(!of(&[yes, no]).unwrap().label_requests);
}

#[test]
fn a_cap_that_cannot_be_read_allows_nothing_to_those_it_concerns() {
    for (bad, named) in [
        (json!({"duration": "1d"}), "spec.caps.duration: \"1d\""),
        (json!({"snapLength": "96 bytes"}), "spec.caps.snapLength: \"96 bytes\""),
        (json!({"packetsPerSecond": "fast"}), "spec.caps.packetsPerSecond: \"fast\""),
        (json!({"headersOnly": "yes"}), "spec.caps.headersOnly must be true or false"),
        (json!({"snaplength": 96}), "spec.caps.snaplength"),
    ] {
        let bad = capped("bad", bad);
        assert!(bad.problem().unwrap().contains(named), "{:?}", bad.problem());
        let refusal = of(&[capped("good", json!({})), bad]).unwrap_err();
        assert_eq!(refusal.reason, reasons::INVALID_POLICY);
        assert!(
            refusal.message.contains("CapturePolicy bad") && refusal.message.contains(named),
            "{refusal}"
        );
    }
    let elsewhere = Policy::read(
        "bad",
        &json!({"namespaceSelector": {"matchLabels": {"a": "b"}}, "caps": {"duration": "1d"}}),
    );
    assert!(of(&[capped("good", json!({})), elsewhere]).is_ok());
}

#[test]
fn a_selector_that_cannot_be_read_may_mean_everybody_and_permits_nobody() {
    let selector = json!({"matchExpressions": [{"key": "a", "operator": "Is"}]});
    let bad = Policy::read("bad", &json!({ "namespaceSelector": selector }));
    assert_eq!(of(std::slice::from_ref(&bad)).unwrap_err().reason, reasons::NOT_ALLOWED);
    let refusal = of(&[capped("good", json!({})), bad]).unwrap_err();
    assert_eq!(refusal.reason, reasons::INVALID_POLICY);
    assert!(refusal.message.contains("DoesNotExist"), "{refusal}");
    assert_eq!(Policy::read("none", &json!({})).problem(), Some("spec.namespaceSelector is missing"));
}

#[test]
fn a_cap_of_nothing_allows_nothing() {
    for field in [
        "duration",
        "bytes",
        "packets",
        "snapLength",
        "packetsPerSecond",
        "bytesPerSecond",
        "captures",
        "capturesPerHour",
    ] {
        let value = if field == "duration" { json!("0s") } else { json!(0) };
        let refusal = of(&[capped("none", json!({ field: value }))]).unwrap_err();
        assert_eq!(refusal.reason, reasons::NOT_ALLOWED);
        assert!(refusal.message.contains(&format!("caps.{field} of CapturePolicy none is 0")), "{refusal}");
    }
}
