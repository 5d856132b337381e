//! The cluster that the other tests run on is a cluster.

use std::time::Duration;

use podtap_tests::cluster::{Cluster, Namespace, PodManifest, SOON, wait};
use podtap_tests::scratch::Scratch;
use serde_json::json;

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn cluster_has_two_nodes_and_its_api_server_is_a_real_one() {
    let cluster = Cluster::get().unwrap();
    let nodes = cluster.get_json(&["nodes"]).unwrap();
    let ready = |node: &&serde_json::Value| {
        let conditions = node["status"]["conditions"].as_array().unwrap();
        conditions.iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
    };
    let count = nodes["items"].as_array().unwrap().iter().filter(ready).count();
    assert!(count >= 2, "{nodes:#}");
    let kinds = cluster
        .kubectl(&["api-resources", "--api-group=admissionregistration.k8s.io", "-o", "name"])
        .unwrap();
    assert!(kinds.contains("validatingadmissionpolicies."), "{kinds}");
    if cluster.is_own() {
        assert_eq!(cluster.nodes().unwrap(), ["node1", "node2"]);
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn cluster_pods_reach_each_other_across_nodes_and_files_come_out_of_them() {
    let cluster = Cluster::get().unwrap();
    let nodes = cluster.nodes().unwrap();
    let namespace = Namespace::make(&cluster, "harness", &[]).unwrap();
    let server = PodManifest::new("server")
        .on(&nodes[0])
        .shell("mkdir /www && head -c 100000 /dev/urandom >/www/file && exec httpd -f -h /www -p 80");
    let client = PodManifest::new("client").on(&nodes[1]);
    let pods = namespace.run_all(&[server, client]).unwrap();
    assert_eq!([&pods[0].node, &pods[1].node], [&nodes[0], &nodes[1]]);
    let (server, client) = (pods[0].address.to_string(), pods[1].address.to_string());
    namespace.exec("client", &["ping", "-c", "2", "-W", "2", &server]).unwrap();
    namespace.exec("server", &["ping", "-c", "2", "-W", "2", &client]).unwrap();
    let fetch =
        format!("printf 'GET /file HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {server} 80 | tail -c 100000 >/tmp/file");
    namespace.exec("client", &["sh", "-c", &fetch]).unwrap();
    let scratch = Scratch::new("harness").unwrap();
    let copies = [("server", "/www/file"), ("client", "/tmp/file")].map(|(pod, path)| {
        let copy = scratch.path().join(pod);
        namespace.copy_out(pod, path, &copy).unwrap();
        std::fs::read(copy).unwrap()
    });
    assert_eq!(copies[0].len(), 100_000);
    assert!(copies[0] == copies[1], "what was fetched is what was served");
    let missing = namespace.copy_out("server", "/www/none", &scratch.path().join("none"));
    assert!(missing.is_err());
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn cluster_pods_find_the_api_server_and_their_tokens_name_their_node() {
    let cluster = Cluster::get().unwrap();
    let node = cluster.nodes().unwrap().pop().unwrap();
    let namespace = Namespace::make(&cluster, "harness", &[]).unwrap();
    let on_host = PodManifest::new("host").on(&node).host_network();
    let pods = namespace.run_all(&[PodManifest::new("pod").on(&node), on_host]).unwrap();
    for pod in &pods {
        // busybox cannot speak TLS; a server that does answers what is not TLS with text.
        let ask =
            "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT";
        let answer = namespace.exec(&pod.name, &["sh", "-c", ask]).unwrap();
        assert!(answer.contains("HTTP"), "{}: {answer}", pod.name);
        let token = namespace
            .exec(&pod.name, &["cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"])
            .unwrap();
        let itself = cluster.with_token(token.trim()).unwrap();
        let who: serde_json::Value =
            serde_json::from_str(&itself.kubectl(&["auth", "whoami", "-o", "json"]).unwrap()).unwrap();
        let extra = &who["status"]["userInfo"]["extra"];
        assert_eq!(extra["authentication.kubernetes.io/node-name"], json!([node]), "{who:#}");
        assert!(itself.refusal(&["get", "pods", "-A"]).unwrap().contains("Forbidden"));
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn cluster_goes_on_after_its_api_server_was_away_and_a_kubelet_was_ended() {
    let Some(cluster) = Cluster::own().unwrap() else { return };
    let namespace = Namespace::make(&cluster, "harness", &[]).unwrap();
    let pod = namespace.run(&PodManifest::new("before").on("node2")).unwrap();
    cluster.stop("api").unwrap();
    assert!(cluster.kubectl(&["get", "nodes", "--request-timeout=2s"]).is_err());
    cluster.start("api").unwrap();
    wait("the API server", SOON, || cluster.kubectl(&["get", "--raw", "/readyz"]).map(Some)).unwrap();
    cluster.stop("node2/kubelet").unwrap();
    namespace.apply(&PodManifest::new("later").on("node2").manifest()).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let later = namespace.get_json(&["pod", "later"]).unwrap();
    assert_eq!(later["status"]["phase"], "Pending");
    cluster.start("node2/kubelet").unwrap();
    namespace.wait_running("later").unwrap();
    let now = namespace.wait_running("before").unwrap();
    assert_eq!((now.uid, now.address), (pod.uid, pod.address), "it never ended");
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn cluster_nodes_have_pods_interfaces_and_files_of_their_own() {
    let Some(cluster) = Cluster::own().unwrap() else { return };
    let namespace = Namespace::make(&cluster, "harness", &[]).unwrap();
    let pods = ["node1", "node2"].map(|node| PodManifest::new(&format!("on-{node}")).on(node));
    for pod in namespace.run_all(&pods).unwrap() {
        let other = if pod.node == "node1" { "node2" } else { "node1" };
        let results = |node: &str| {
            let find = ["sh", "-c", "cat /var/lib/cni/results/*-eth0"];
            cluster.on(node, &find).unwrap_or_default()
        };
        assert!(results(&pod.node).contains(&pod.uid) && !results(other).contains(&pod.uid));
        assert_eq!(
            pod.addresses.iter().filter(|address| address.is_ipv6()).count(),
            1,
            "{:?}",
            pod.addresses
        );
        let bridge = if pod.node == "node1" { "podtap1" } else { "podtap2" };
        let ports = cluster.on(&pod.node, &["ip", "-o", "link", "show", "master", bridge]).unwrap();
        assert!(ports.contains("veth"), "{ports}");
    }
}
