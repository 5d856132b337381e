use std::{
    fs,
    os::unix::fs::symlink,
    sync::mpsc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::*;
use crate::requests::test_dir::TestDir;

fn result(pod: &str, uid: &str, container: &str, interface: &str, netns: &str) -> Value {
    json!({
        "containerId": container, "ifName": interface,
        "cniArgs": [["K8S_POD_NAMESPACE", "team-a"], ["K8S_POD_NAME", pod], ["K8S_POD_UID", uid]],
        "result": {
            "interfaces": [{"name": "cni0"}, {"name": interface, "sandbox": format!("/var/run/netns/{netns}")}],
            "ips": [{"address": "10.1.0.5/24"}]
        }
    })
}

fn place(pod: &str, uids: &[&str]) -> PodPlace {
    PodPlace {
        namespace: "team-a".into(),
        name: pod.into(),
        uid: uids[0].into(),
        sandbox_uids: uids.iter().map(|uid| (*uid).to_owned()).collect(),
        addresses: Vec::new(),
        interface: None,
    }
}

struct Host {
    dir: TestDir,
    watcher: Watcher,
}

impl Host {
    fn new() -> Self {
        let dir = TestDir::new();
        let results = dir.path().join("results");
        fs::create_dir(&results).unwrap();
        let watcher = Watcher::new(vec![results], CniCache::default()).unwrap();
        Self { dir, watcher }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("results").join(name)
    }

    /// Writes a file as of so many seconds after others.
    fn write(&mut self, name: &str, second: u64, result: &Value) {
        fs::write(self.path(name), result.to_string()).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000 + second);
        File::options().write(true).open(self.path(name)).unwrap().set_modified(time).unwrap();
        self.watcher.look_everywhere();
    }

    fn found(&self, place: &PodPlace) -> Vec<(String, String)> {
        let found = self.watcher.cache.of(place);
        found.iter().map(|one| (one.interface.clone(), one.netns.clone())).collect()
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

#[test]
fn a_pod_is_found_by_uid_namespace_and_name_together() {
    let mut host = Host::new();
    host.write("a", 1, &result("web", "uid-web", "c1", "eth0", "cni-1"));
    host.write("lo", 1, &result("web", "uid-web", "c1", "lo", "cni-1"));
    assert_eq!(host.found(&place("web", &["uid-web"])), pairs(&[("eth0", "cni-1")]));
    assert_eq!(host.found(&place("web", &["uid-of-one-of-the-same-name"])), []);
    assert_eq!(host.found(&place("other", &["uid-web"])), []);
    let mut elsewhere = place("web", &["uid-web"]);
    elsewhere.namespace = "team-b".into();
    assert_eq!(host.found(&elsewhere), []);
    // A static pod goes by its hash.
    host.write("s", 1, &result("static", "hash", "c2", "eth0", "cni-2"));
    assert_eq!(host.found(&place("static", &["uid-mirror", "hash"])), pairs(&[("eth0", "cni-2")]));
}

#[test]
fn the_newest_sandbox_counts_and_eth0_is_the_default_interface() {
    let mut host = Host::new();
    host.write("old", 1, &result("web", "uid", "c1", "eth0", "cni-1"));
    host.write("net0", 2, &result("web", "uid", "c2", "net0", "cni-2"));
    host.write("eth0", 3, &result("web", "uid", "c2", "eth0", "cni-2"));
    let web = place("web", &["uid"]);
    assert_eq!(host.found(&web), pairs(&[("eth0", "cni-2"), ("net0", "cni-2")]));
    fs::remove_file(host.path("eth0")).unwrap();
    host.watcher.look_everywhere();
    assert_eq!(host.found(&web), pairs(&[("net0", "cni-2")]));
}

#[test]
fn a_namespace_that_two_pods_claim_is_nobodys() {
    let mut host = Host::new();
    host.write("a", 1, &result("web", "uid-web", "c1", "eth0", "cni-1"));
    host.write("b", 2, &result("db", "uid-db", "c2", "eth0", "cni-1"));
    let cache = &host.watcher.cache;
    let web = place("web", &["uid-web"]);
    assert!(cache.is_contested(&cache.of(&web)[0]));
    assert!(cache.is_contested(&cache.of(&place("db", &["uid-db"]))[0]));
    let address = "10.1.0.5".parse().unwrap();
    assert!(cache.gives_to_others(address, &place("web", &["uid-web"])));
    assert!(!cache.gives_to_others("10.1.0.6".parse().unwrap(), &web));
    // A newer result of the same sandbox and interface counts instead.
    host.write("a-again", 3, &result("web", "uid-web", "c1", "eth0", "cni-3"));
    let cache = &host.watcher.cache;
    assert_eq!((cache.of(&web)[0].netns.as_str(), cache.is_contested(&cache.of(&web)[0])), ("cni-3", false));
}

#[test]
fn links_pipes_and_what_is_too_large_are_not_read() {
    let mut host = Host::new();
    let outside = host.dir.path().join("outside");
    let good = result("web", "uid", "c1", "eth0", "cni-1");
    fs::write(&outside, good.to_string()).unwrap();
    symlink(&outside, host.path("link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, host.path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut large = good.clone();
    large["config"] = json!("x".repeat(MOST_BYTES as usize));
    host.write("large", 1, &large);
    fs::write(host.path(".hidden"), good.to_string()).unwrap();
    host.watcher.look_everywhere();
    assert_eq!(host.found(&place("web", &["uid"])), []);
}

#[test]
fn a_file_counts_as_soon_as_it_is_written_in_a_directory_that_came_later() {
    let dir = TestDir::new();
    let results = dir.path().join("results");
    let (tell, news) = mpsc::channel();
    let cache = CniCache::watch(vec![results.clone()], move || {
        let _ = tell.send(());
    })
    .unwrap();
    fs::create_dir(&results).unwrap();
    fs::write(results.join("a"), result("web", "uid", "c1", "eth0", "cni-1").to_string()).unwrap();
    let web = place("web", &["uid"]);
    let within = |done: &dyn Fn() -> bool| {
        while !done() {
            news.recv_timeout(Duration::from_secs(5)).unwrap();
        }
    };
    within(&|| cache.of(&web).len() == 1);
    // Half a file is none, and a whole one is one.
    fs::write(results.join("a"), "{").unwrap();
    within(&|| cache.of(&web).is_empty());
    fs::write(results.join("a"), result("web", "uid", "c1", "eth0", "cni-2").to_string()).unwrap();
    within(&|| cache.of(&web).first().is_some_and(|one| one.netns == "cni-2"));
    fs::remove_dir_all(&results).unwrap();
    within(&|| cache.of(&web).is_empty());
}
