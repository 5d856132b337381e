//! The agent's powers: with those that its DaemonSet names it captures, and without any one of them something fails that
//! can be seen.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use podtap_tests::cluster::{Namespace, PodManifest, SOON, wait};
use podtap_tests::kubectl::Kubectl;
use podtap_tests::scratch::Scratch;
use serde_json::{Value, json};

const OVERLAY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/default");
const SYSTEM: [&str; 2] = ["-n", "podtap-system"];
const DAEMONSET: [&str; 5] = ["-n", "podtap-system", "patch", "daemonset", "podtap-agent"];
const ROLLED: Duration = Duration::from_secs(110);

/// podtap with one agent only, which a test takes powers from; as it was when this is dropped.
struct OneAgent {
    admin: Kubectl,
    node: String,
}

impl OneAgent {
    fn new() -> Self {
        let admin = Kubectl::admin().unwrap();
        admin.run(&["apply", "-k", OVERLAY]).unwrap();
        let node = admin.cluster.nodes().unwrap().remove(0);
        let it = Self { admin, node };
        it.roll();
        let only = json!({"spec": {
            "template": {"spec": {
                "nodeSelector": {"kubernetes.io/hostname": it.node}, "terminationGracePeriodSeconds": 2,
            }},
        }});
        it.patch("--type=strategic", &only);
        it.roll();
        it
    }

    fn patch(&self, kind: &str, patch: &Value) {
        self.admin.run(&[&DAEMONSET[..], &[kind, "-p", &patch.to_string()]].concat()).unwrap();
    }

    /// Waits until the agents are the new ones, and ready.
    fn roll(&self) {
        let arguments =
            ["-n", "podtap-system", "rollout", "status", "daemonset/podtap-agent", "--timeout=100s"];
        self.admin.cluster.kubectl_within(ROLLED, &arguments).unwrap();
    }

    fn capabilities(&self) -> Vec<String> {
        let daemonset =
            self.admin.cluster.get_json(&["-n", "podtap-system", "daemonset", "podtap-agent"]).unwrap();
        let context = &daemonset["spec"]["template"]["spec"]["containers"][0]["securityContext"];
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(context["allowPrivilegeEscalation"], json!(false));
        assert_eq!(context["readOnlyRootFilesystem"], json!(true));
        let added = context["capabilities"]["add"].as_array().unwrap().iter();
        added.map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    fn set_capabilities(&self, names: &[String]) {
        let path = "/spec/template/spec/containers/0/securityContext/capabilities/add";
        self.patch("--type=json", &json!([{"op": "replace", "path": path, "value": names}]));
    }

    /// The one agent's pod, when it is of the DaemonSet's newest generation.
    fn pod(&self) -> anyhow::Result<Option<String>> {
        let daemonset = self.admin.cluster.get_json(&["-n", "podtap-system", "daemonset", "podtap-agent"])?;
        let select = "-l=app.kubernetes.io/name=podtap-agent";
        let pods = self.admin.cluster.get_json(&["-n", "podtap-system", "pods", select])?;
        let generation = daemonset["metadata"]["generation"].to_string();
        let newest = |pod: &&Value| {
            pod["metadata"]["labels"]["pod-template-generation"].as_str() == Some(&generation)
                && pod["metadata"]["deletionTimestamp"].is_null()
        };
        let pod = pods["items"].as_array().and_then(|pods| pods.iter().find(newest));
        Ok(pod.and_then(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned))
    }

    /// Waits until the newest agent has said that, in this or its last life.
    fn said(&self, word: &str) {
        let found = wait(&format!("the agent to say {word}"), SOON, || {
            let Some(pod) = self.pod()? else { return Ok(None) };
            let logs = |previous: &str| self.admin.run(&[&SYSTEM[..], &["logs", &pod, previous]].concat());
            let said =
                logs("--previous=true").unwrap_or_default() + &logs("--previous=false").unwrap_or_default();
            anyhow::ensure!(said.contains(word), "it said: {said}");
            Ok(Some(()))
        });
        found.unwrap();
    }
}

impl Drop for OneAgent {
    fn drop(&mut self) {
        // A whole new one: what was patched is not in what apply remembers.
        let _ =
            self.admin.run(&[&SYSTEM[..], &["delete", "daemonset", "podtap-agent", "--wait=true"]].concat());
        if let Err(error) = self.admin.run(&["apply", "-k", OVERLAY]) {
            eprintln!("the agents may be missing: {error:#}");
        }
        let arguments =
            ["-n", "podtap-system", "rollout", "status", "daemonset/podtap-agent", "--timeout=100s"];
        if let Err(error) = self.admin.cluster.kubectl_within(ROLLED, &arguments) {
            eprintln!("{error:#}");
        }
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_agent_has_the_powers_it_needs_and_none_besides() {
    let agent = OneAgent::new();
    let all = agent.capabilities();
    assert_eq!(all, ["BPF", "NET_ADMIN", "NET_RAW", "PERFMON", "SYS_NICE", "SETUID", "SETGID"]);
    let team = Namespace::make(&agent.admin.cluster, "powers", &[("podtap.dev/allow", "true")]).unwrap();
    team.run(&PodManifest::new("web").on(&agent.node).annotation("podtap.dev/filter", "icmp")).unwrap();
    // With all of them.
    run(&team, &["WaitingForTraffic", "Capturing"]);

    for without in &all {
        let rest: Vec<String> = all.iter().filter(|name| *name != without).cloned().collect();
        agent.set_capabilities(&rest);
        match without.as_str() {
            // It does not even start.
            "BPF" | "NET_ADMIN" => agent.said("Operation not permitted"),
            "NET_RAW" => {
                socket_mode(&agent, true);
                agent.roll();
                let record = run(&team, &["Failed"]);
                assert_eq!(record["status"]["reason"], "AttachFailed", "{record:#}");
                socket_mode(&agent, false);
            }
            "PERFMON" => {
                agent.roll();
                let record = run(&team, &["Failed"]);
                assert_eq!(record["status"]["reason"], "LoadFailed", "{record:#}");
            }
            "SYS_NICE" => agent.said("CAP_SYS_NICE"),
            // Whoever breaks out of the filter's compiler is root then, or of root's group.
            "SETUID" | "SETGID" => {
                agent.roll();
                if agent.admin.cluster.is_own() {
                    let ids = compiler_ids(&agent);
                    let root = if without == "SETUID" { "Uid:\t0\t0\t0\t0" } else { "Gid:\t0\t0\t0\t0" };
                    assert!(ids.contains(root), "{ids}");
                }
            }
            other => panic!("nobody says what {other} is for"),
        }
    }
    agent.set_capabilities(&all);
    agent.roll();
    if agent.admin.cluster.is_own() {
        let ids = compiler_ids(&agent);
        assert!(
            ids.contains("Uid:\t65534\t65534\t65534\t65534") && ids.contains("Gid:\t65534\t65534"),
            "{ids}"
        );
    }
}

#[test]
#[ignore = "needs a cluster: cargo xtask test --cluster"]
fn the_agent_works_with_the_seccomp_profile_that_comes_along() {
    let agent = OneAgent::new();
    agent
        .admin
        .run(&["apply", "-k", concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/overlays/seccomp")])
        .unwrap();
    agent.roll();
    let pod = wait("the agent", SOON, || agent.pod()).unwrap();
    let manifest = agent.admin.cluster.get_json(&["-n", "podtap-system", "pod", &pod]).unwrap();
    let profile = &manifest["spec"]["containers"][0]["securityContext"]["seccompProfile"];
    assert_eq!(profile, &json!({"type": "Localhost", "localhostProfile": "podtap/agent.json"}));
    let team = Namespace::make(&agent.admin.cluster, "seccomp", &[("podtap.dev/allow", "true")]).unwrap();
    // Pinged by its own node, as soon as it is there.
    let ping = "while true; do ping -c 1 -W 1 127.0.0.1; ping -c 1 -W 1 $(ip route | awk '/default/{print $3}'); sleep 0.2; done";
    team.run(&PodManifest::new("web").on(&agent.node).shell(ping).annotation("podtap.dev/filter", "icmp"))
        .unwrap();
    let record = run(&team, &["Capturing"]);
    // Files come out, by the tar in the image.
    let name = record["metadata"]["name"].as_str().unwrap();
    let scratch = Scratch::new("seccomp").unwrap();
    let copy = scratch.path().join("run.json");
    let path = format!("/var/lib/podtap/{}/{name}/run.json", team.name());
    agent.admin.cluster.copy_out("podtap-system", &pod, &path, &copy).unwrap();
    assert!(std::fs::read_to_string(copy).unwrap().contains(name));
}

/// What becomes of a new run: the record, once it is in one of these states.
fn run(team: &Namespace<'_>, want: &[&str]) -> Value {
    let records = || -> anyhow::Result<Vec<Value>> {
        Ok(team.get_json(&["podcaptures"])?["items"].as_array().cloned().unwrap_or_default())
    };
    let name = |record: &Value| record["metadata"]["name"].clone();
    let before: Vec<Value> = records().unwrap().iter().map(name).collect();
    team.kubectl(&["label", "pod", "web", "podtap.dev/capture=true"]).unwrap();
    let record = wait(&format!("a record that is {want:?}"), SOON, || {
        let new: Vec<Value> = records()?.into_iter().filter(|one| !before.contains(&name(one))).collect();
        let found = new.iter().find(|one| want.iter().any(|state| one["status"]["state"] == *state));
        anyhow::ensure!(found.is_some(), "{new:?}");
        Ok(found.cloned())
    });
    team.kubectl(&["label", "pod", "web", "podtap.dev/capture-"]).unwrap();
    record.unwrap()
}

/// Has the agent tap by packet sockets, from its next start on.
fn socket_mode(agent: &OneAgent, on: bool) {
    let config =
        if on { "httpAddress: 0.0.0.0:9471\nattachMode: Socket\n" } else { "httpAddress: 0.0.0.0:9471\n" };
    let patch = json!({"data": {"agent.yaml": config}}).to_string();
    let patch = ["patch", "configmap", "podtap-agent", "--type=merge", "-p", &patch];
    agent.admin.run(&[&SYSTEM[..], &patch].concat()).unwrap();
    agent.admin.run(&[&SYSTEM[..], &["rollout", "restart", "daemonset", "podtap-agent"]].concat()).unwrap();
}

/// User and groups of the process that compiles filters, as the node sees them.
fn compiler_ids(agent: &OneAgent) -> String {
    let pod = wait("the agent", SOON, || agent.pod()).unwrap();
    let exec = ["exec", "-i", &pod, "--", "/usr/bin/capture-daemon", "compile-filter"];
    let mut command = agent.admin.command(&[&SYSTEM[..], &exec].concat());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // Its text does not end, so it stays where it reads: with its powers given up.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"tcp").unwrap();
    let script = "for p in /proc/[0-9]*; do case $(readlink $p/exe) in */capture-daemon) \
                  tr '\\0' ' ' <$p/cmdline | grep -q 'compile-filter' && cat $p/status;; esac; done; true";
    let ids = wait("the compiler", SOON, || {
        let ids = agent.admin.cluster.on(&agent.node, &["sh", "-c", script])?;
        // Before, it still has what the agent has.
        Ok(ids.contains("CapEff:\t0000000000000000").then_some(ids))
    });
    drop(stdin);
    let _ = child.kill();
    let _ = child.wait();
    ids.unwrap()
}
