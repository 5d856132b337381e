//! The cluster's network: a veth between the host and node2, a bridge for the pods of each, and no translation of
//! addresses anywhere.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::layout::{API, HOST, NETNS, NETWORK, NODES, Node, SERVICES, WIRE, home};
use super::machine::wait;
use crate::command::output;
use crate::workspace::find_program;

/// Settings of the kernel that are changed while the cluster is up: by this, and by the kubelets, which do so unasked.
const SETTINGS: [&str; 8] = [
    "net/ipv4/ip_forward",
    "fs/inotify/max_user_instances",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Two kubelets and two containerds watch many directories.
const INOTIFY_INSTANCES: u32 = 1024;

/// Pods reach what is in the cluster and nothing else, whatever the host's own routes are.
const RULES: [&str; 2] =
    ["priority 213 from NETWORK to NETWORK lookup main", "priority 214 from NETWORK unreachable"];

/// Where forwarding is refused unless allowed, as container engines leave it.
const FORWARD: [[&str; 2]; 2] = [["-i", "podtap+"], ["-o", "podtap+"]];

/// Makes it all; nothing of it is there.
pub(super) fn up() -> Result<()> {
    keep_settings()?;
    output(Command::new("ip").args(["netns", "add", NETNS]))?;
    let mut host = format!(
        "link add {WIRE} type veth peer name eth0 netns {NETNS}\n\
         link set {WIRE} up\n\
         addr add {HOST}/24 dev {WIRE}\n\
         addr add {API}/32 dev {WIRE}\n\
         route add unreachable {SERVICES}\n"
    );
    for rule in RULES {
        host += &format!("rule add {}\n", rule.replace("NETWORK", NETWORK));
    }
    let mut inside = "link set lo up\nlink set eth0 up\n".to_owned();
    for node in &NODES {
        let lines = bridge(node);
        if node.netns.is_some() {
            inside +=
                &format!("addr add {}/24 dev eth0\nroute add default via {HOST}\n{lines}", node.address);
            // The link to it is up only when both ends are, and until then has no route.
            host += &format!("route add {} via {} dev {WIRE} onlink\n", node.pods.network, node.address);
        } else {
            host += &lines;
        }
    }
    ip(&["-batch", "-"], &host)?;
    ip(&["-n", NETNS, "-batch", "-"], &inside)?;
    set(Path::new("net/ipv4/ip_forward"), "1")?;
    let instances = Path::new("fs/inotify/max_user_instances");
    if get(instances).is_some_and(|now| now.parse().is_ok_and(|now: u32| now < INOTIFY_INSTANCES)) {
        set(instances, &INOTIFY_INSTANCES.to_string())?;
    }
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
    output(Command::new("nsenter").arg(format!("--net=/run/netns/{NETNS}")).args(["sh", "-ec", forward]))?;
    if forwards_nothing() {
        for [side, interface] in FORWARD {
            iptables(&["-I", "FORWARD", side, interface, "-j", "ACCEPT"])?;
        }
    }
    Ok(())
}

/// Takes away what is there of it. No process of the cluster runs any more.
pub(super) fn down() -> Result<()> {
    // Only what is there: asking for what is not makes iptables set up its tables.
    for line in iptables(&["-S", "FORWARD"]).unwrap_or_default().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["-A", rule @ ..] = &words[..]
            && FORWARD.iter().any(|own| rule == [&["FORWARD"], &own[..], &["-j", "ACCEPT"]].concat())
        {
            iptables(&[&["-D"], rule].concat())?;
        }
    }
    if Path::new("/run/netns").join(NETNS).exists() {
        output(Command::new("ip").args(["netns", "del", NETNS]))?;
    }
    let ours = || -> Vec<String> {
        // Of the pods' interfaces, those whose namespaces are still being taken down.
        let ports = NODES.iter().flat_map(|node| links(&["master", node.bridge]));
        ports.chain(links(&[]).into_iter().filter(|link| is_ours(link))).collect()
    };
    for link in ours() {
        // It may be gone by now, with its other end.
        let _ = output(Command::new("ip").args(["link", "del", &link]));
    }
    wait("links to go", || ours().is_empty())?;
    let _ = output(Command::new("ip").args(["route", "del", "unreachable", SERVICES]));
    for rule in RULES {
        let rule = rule.replace("NETWORK", NETWORK);
        while output(Command::new("ip").args(["rule", "del"]).args(rule.split(' '))).is_ok() {}
    }
    restore_settings()
}

/// What is there of it, for people; nothing after [`down`].
pub(super) fn left() -> Vec<String> {
    let mut found: Vec<String> = links(&[]).into_iter().filter(|link| is_ours(link)).collect();
    found.extend(Path::new("/run/netns").join(NETNS).exists().then(|| format!("namespace {NETNS}")));
    for kind in ["route", "rule"] {
        let all = output(Command::new("ip").args([kind, "show"])).unwrap_or_default();
        let ours = all.lines().filter(|line| line.contains(SERVICES) || line.contains(NETWORK));
        found.extend(ours.map(|line| format!("{kind} {}", line.trim())));
    }
    found.extend(kept().exists().then(|| "the kernel's settings of the cluster".to_owned()));
    found
}

fn is_ours(link: &str) -> bool {
    link == WIRE || NODES.iter().any(|node| node.bridge == link)
}

/// Lines that make a node's bridge.
fn bridge(node: &Node) -> String {
    let Node { bridge, bridge_mac, pods, pods6, .. } = node;
    format!(
        "link add {bridge} address {bridge_mac} type bridge forward_delay 0\n\
         link set {bridge} up\n\
         addr add {}/{} dev {bridge}\n\
         addr add {}/{} dev {bridge} nodad\n",
        pods.gateway, pods.length, pods6.gateway, pods6.length
    )
}

/// Names of the links that match.
fn links(matching: &[&str]) -> Vec<String> {
    let text = output(Command::new("ip").args(["-o", "link", "show"]).args(matching)).unwrap_or_default();
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned());
    text.lines().filter_map(name).collect()
}

fn ip(arguments: &[&str], lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip")?;
    // Closed after this statement.
    child.stdin.take().context("no pipe")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip {}: {}\nfor:\n{lines}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn forwards_nothing() -> bool {
    iptables(&["-S", "FORWARD"]).is_ok_and(|text| text.starts_with("-P FORWARD DROP"))
}

fn iptables(arguments: &[&str]) -> Result<String> {
    let program = find_program("iptables").context("no iptables")?;
    output(Command::new(program).arg("-w").args(arguments))
}

fn kept() -> PathBuf {
    home().join("settings")
}

/// Writes down the kernel's settings, unless an earlier cluster's are there that were not restored.
fn keep_settings() -> Result<()> {
    if kept().exists() {
        return Ok(());
    }
    let lines: Vec<String> =
        SETTINGS.iter().filter_map(|name| Some(format!("{name} {}\n", get(Path::new(name))?))).collect();
    let new = kept().with_extension("new");
    fs::write(&new, lines.concat())?;
    fs::rename(new, kept()).context("cannot keep the kernel's settings")
}

fn restore_settings() -> Result<()> {
    let Ok(lines) = fs::read_to_string(kept()) else { return Ok(()) };
    for (name, value) in lines.lines().filter_map(|line| line.split_once(' ')) {
        if get(Path::new(name)).as_deref() != Some(value) {
            set(Path::new(name), value)?;
        }
    }
    fs::remove_file(kept()).context("cannot forget the kernel's settings")
}

fn get(name: &Path) -> Option<String> {
    Some(fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?.trim().to_owned())
}

fn set(name: &Path, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys").join(name), value)
        .with_context(|| format!("cannot set {}", name.display()))
}
