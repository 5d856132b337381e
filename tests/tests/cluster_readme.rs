//! What the README tells a newcomer to do on a cluster, word for word, and what they must see.

use anyhow::Context as _;
use podtap_tests::cluster::{Cluster, Namespace, PodManifest, SOON, wait};
use podtap_tests::scratch::Scratch;
use podtap_tests::tools::{agree, tshark};

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn a_labelled_pods_conversation_is_in_a_file_that_kubectl_cp_fetches() {
    let cluster = Cluster::with_podtap().unwrap();
    let nodes = cluster.nodes().unwrap();

    let team = Namespace::make(&cluster, "team", &[]).unwrap();
    let serve = "mkdir /www && echo 'hello from web' >/www/index.html && exec httpd -f -h /www -p 80";
    let web = PodManifest::new("web").on(&nodes[0]).shell(serve);
    let client = PodManifest::new("client").on(&nodes[nodes.len() - 1]);
    let pods = team.run_all(&[web, client]).unwrap();
    let [web, client] = [pods[0].address.to_string(), pods[1].address.to_string()];

    cluster.kubectl(&["label", "namespace", team.name(), "podtap.dev/allow=true"]).unwrap();
    team.kubectl(&["label", "pod", "web", "podtap.dev/capture=true"]).unwrap();
    let state = |record: &serde_json::Value| record["status"]["state"].as_str().unwrap_or("").to_owned();
    wait("the capture to wait for traffic", SOON, || {
        let records = team.get_json(&["podcaptures"])?;
        let found = records["items"].as_array().context("no list")?.first().map(&state);
        Ok(found.filter(|state| state == "WaitingForTraffic").map(|_| ()))
    })
    .unwrap();

    let fetch = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {web} 80");
    let answer = team.exec("client", &["sh", "-c", &fetch]).unwrap();
    assert!(answer.contains("hello from web"), "{answer}");

    // Counters are told each 10 s; the table is what a user looks at.
    let table = wait("the table to show packets", SOON, || {
        let table = team.kubectl(&["get", "podcaptures"])?;
        let row = table.lines().nth(1).unwrap_or("").to_owned();
        Ok(row.contains("Capturing").then_some(table))
    })
    .unwrap();
    let heads: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    let all = ["NAME", "CAPTURE", "POD", "NODE", "STATE", "PACKETS", "DROPPED", "SIZE", "AGE"];
    assert_eq!(heads, all, "{table}");
    let row = table.lines().nth(1).unwrap();
    assert!(row.contains("web") && row.contains(&nodes[0]), "{table}");

    let record = row.split_whitespace().next().unwrap();
    let agent = cluster.agent(&nodes[0]).unwrap();
    let agent = agent["metadata"]["name"].as_str().unwrap();
    let scratch = Scratch::new("readme").unwrap();
    let from = format!("podtap-system/{agent}:/var/lib/podtap/{}/{record}", team.name());
    let to = scratch.path().join(record);
    cluster.kubectl(&["cp", &from, to.to_str().unwrap()]).unwrap();
    let files: Vec<_> = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().path()).collect();
    let pcapng: Vec<_> =
        files.iter().filter(|file| file.extension().is_some_and(|end| end == "pcapng")).collect();
    assert_eq!(pcapng.len(), 1, "{files:?}");

    assert!(agree(pcapng[0]).unwrap() >= 8);
    let http = tshark(pcapng[0], "http", &["ip.src", "http.request.method", "http.response.code"]).unwrap();
    assert_eq!(http, [format!("{client}\tGET\t"), format!("{web}\t\t200")], "both directions");
}
