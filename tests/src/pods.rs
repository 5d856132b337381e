//! Pods without a cluster: network namespaces with a veth each, on one bridge, as a simple CNI makes them.
//!
//! Names carry the process id, so runs side by side do not meet. A small shell process in a group of its own takes
//! everything down when its standard input closes: when this is dropped, but also after a panic, Ctrl-C or SIGKILL.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::process::{feed, output};

/// A set of pods that reach each other and nothing else. The host has no address among them.
#[derive(Debug)]
pub struct Pods {
    tag: String,
    group: u32,
    pods: Vec<Pod>,
    janitor: Child,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// As given to [`Pods::add`].
    pub name: String,
    /// Name of its network namespace, for `ip -n`.
    pub netns: String,
    /// Its interface on the host's side.
    pub host_interface: String,
    /// Its address of IPv4, in a /16.
    pub v4: Ipv4Addr,
    /// Its address of IPv6, in a /64.
    pub v6: Ipv6Addr,
    /// Its interface's hardware address.
    pub mac: [u8; 6],
}

/// A pod's interface inside, as a CNI names it.
pub const INTERFACE: &str = "eth0";

/// Reports of multicast groups are repeated a millisecond later instead of anywhere within a second, and nobody asks for
/// a router, again and again for an hour: they reach all pods, also those that count what they get.
const QUIET: &str = "ip link set lo up && cd /proc/sys/net/ipv6/conf/default && echo 1 >mldv2_unsolicited_report_interval && \
    echo 0 >router_solicitations";

/// `$1` is the tag, `$2` the group of the host's interfaces. Links first: a namespace gives its veth back only some time
/// after it was deleted. All at once where that can be: a test may have hundreds of them.
const JANITOR: &str = r#"
clean() {
    stat -Lc '%i %n' /run/netns/"$1"-* /proc/[0-9]*/ns/net |
        awk '$2 ~ "^/run/" { own[$1]; next } $1 in own { split($2, path, "/"); print path[3] }' | xargs -r kill -9
    ip link del group "$2"
    ip -o link show | sed -n "s/^[0-9]*: \($1[a-z0-9]*\)[@:].*/link del \1/p" | ip -force -batch -
    for path in /run/netns/"$1"-*; do
        [ -e "$path" ] && echo "netns del ${path##*/}"
    done | ip -force -batch -
}
clean "$1" "$2" 2>/dev/null
echo ready
cat >/dev/null
clean "$1" "$2" 2>/dev/null
"#;

impl Pods {
    /// An empty set: a bridge.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // At most 10 characters, which leaves 5 of an interface name's 15.
        let tag = format!("pt{:06x}{:02x}", std::process::id(), number % 256);
        // Process ids have 22 bits at most.
        let group = (std::process::id() << 8) | (number % 256);
        let mut janitor = Command::new("sh")
            .args(["-c", JANITOR, "podtap-janitor", &tag, &group.to_string()])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start sh")?;
        let mut ready = [0; 6];
        let stdout = janitor.stdout.as_mut().context("no pipe")?;
        std::io::Read::read_exact(stdout, &mut ready).context("the janitor did not start")?;
        let pods = Self { tag, group, pods: Vec::new(), janitor };
        let bridge = pods.bridge();
        // In one step it would be up first, and have an address that asks all pods for routers.
        ip(&format!(
            "link add {bridge} type bridge forward_delay 0 mcast_snooping 0\n\
             link set {bridge} addrgenmode none\nlink set {bridge} up\n"
        ))?;
        Ok(pods)
    }

    /// A set with these pods.
    pub fn with(names: &[&str]) -> Result<Self> {
        let mut pods = Self::new()?;
        pods.add(names)?;
        Ok(pods)
    }

    /// Makes more pods, each with its interface.
    pub fn add(&mut self, names: &[&str]) -> Result<()> {
        let first = self.pods.len();
        for name in names {
            let number = u16::try_from(self.pods.len() + 1).context("too many pods")?;
            let [high, low] = [number / 250, number % 250 + 1].map(|part| part as u8);
            self.pods.push(Pod {
                name: (*name).to_owned(),
                netns: format!("{}-{name}", self.tag),
                host_interface: format!("{}v{number:x}", self.tag),
                v4: Ipv4Addr::new(10, 77, high, low),
                v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number),
                mac: [2, 0x70, 0x74, 0, number.to_be_bytes()[0], number.to_be_bytes()[1]],
            });
        }
        let new = &self.pods[first..];
        let mut lines = String::new();
        for pod in new {
            writeln!(lines, "netns add {}", pod.netns)?;
        }
        ip(&lines)?;
        for pod in new {
            output(pod.command("sh").args(["-c", QUIET]))?;
        }
        self.connect_all(new)
    }

    /// The pod of that name; panics when there is none.
    pub fn pod(&self, name: &str) -> &Pod {
        let found = self.pods.iter().find(|pod| pod.name == name);
        found.unwrap_or_else(|| panic!("there is no pod {name}"))
    }

    /// All pods.
    pub fn all(&self) -> &[Pod] {
        &self.pods
    }

    /// Tells two pods each other's hardware address, so that they need not ask everybody for it.
    pub fn introduce(&self, one: &str, other: &str) -> Result<()> {
        for (pod, peer) in [(one, other), (other, one)] {
            let (pod, peer) = (self.pod(pod), self.pod(peer));
            let mac = mac_text(peer.mac);
            let lines: Vec<String> = [peer.v4.to_string(), peer.v6.to_string()]
                .iter()
                .map(|address| format!("neigh add {address} lladdr {mac} dev {INTERFACE}\n"))
                .collect();
            feed(Command::new("ip").args(["-n", &pod.netns, "-batch", "-"]), &lines.concat())?;
        }
        Ok(())
    }

    /// Takes a pod's interface away, as when its sandbox ends.
    pub fn disconnect(&self, pod: &Pod) -> Result<()> {
        ip(&format!("link del {}\n", pod.host_interface))
    }

    /// Gives a pod without interface one.
    pub fn connect(&self, pod: &Pod) -> Result<()> {
        self.connect_all(std::slice::from_ref(pod))
    }

    /// As [`connect`](Self::connect), with that index on the host's side.
    pub fn connect_as(&self, pod: &Pod, index: u32) -> Result<()> {
        self.connect_with(std::slice::from_ref(pod), &format!("index {index}"))
    }

    fn connect_all(&self, pods: &[Pod]) -> Result<()> {
        self.connect_with(pods, "")
    }

    fn connect_with(&self, pods: &[Pod], options: &str) -> Result<()> {
        let (bridge, group) = (self.bridge(), self.group);
        let mut links = String::new();
        let mut ports = String::new();
        for Pod { netns, host_interface: host, mac, .. } in pods {
            let mac = mac_text(*mac);
            writeln!(
                links,
                "link add {host} {options} type veth peer name {INTERFACE} address {mac} netns {netns}\n\
                 link set {host} group {group} addrgenmode none\nlink set {host} master {bridge} up"
            )?;
            // Without this, a first packet to a pod not heard of yet would reach all of them.
            writeln!(ports, "fdb add {mac} dev {host} master static\nlink set dev {host} flood off")?;
        }
        ip(&links)?;
        feed(Command::new("bridge").args(["-batch", "-"]), &ports)?;
        for Pod { netns, v4, v6, .. } in pods {
            let inside = format!(
                "link set {INTERFACE} addrgenmode none\nlink set {INTERFACE} up\n\
                 addr add {v4}/16 dev {INTERFACE}\naddr add {v6}/64 dev {INTERFACE} nodad\n"
            );
            feed(Command::new("ip").args(["-n", netns, "-batch", "-"]), &inside)?;
        }
        Ok(())
    }

    /// The commands by which the host's end of a pod's pair is put on the bridge, without a quotation mark.
    pub fn host_side(&self, pod: &Pod) -> String {
        let (bridge, group, host) = (self.bridge(), self.group, &pod.host_interface);
        let mac = mac_text(pod.mac);
        format!(
            "ip link set {host} group {group} addrgenmode none && ip link set {host} master {bridge} up && \
             bridge fdb add {mac} dev {host} master static && bridge link set dev {host} flood off"
        )
    }

    fn bridge(&self) -> String {
        format!("{}br", self.tag)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if let Err(error) = self.janitor.wait() {
            eprintln!("pods may be left: {error}");
        }
    }
}

impl Pod {
    /// A program to run inside the pod's network.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns_path().display())).arg("--").arg(program);
        command
    }

    /// Its network namespace as a file.
    pub fn netns_path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.netns)
    }
}

/// A hardware address as tools write it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn ip(lines: &str) -> Result<()> {
    feed(Command::new("ip").args(["-batch", "-"]), lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root: cargo xtask test --kernel"]
    fn pods_reach_each_other_and_leave_nothing_behind() {
        let pods = Pods::with(&["one", "two"]).unwrap();
        let (one, two) = (pods.pod("one").clone(), pods.pod("two").clone());
        for address in [two.v4.to_string(), two.v6.to_string()] {
            output(one.command("ping").args(["-c", "1", "-W", "2", &address])).unwrap();
        }
        pods.disconnect(&two).unwrap();
        assert!(output(one.command("ping").args(["-c", "1", "-W", "1", &two.v4.to_string()])).is_err());
        pods.connect(&two).unwrap();
        output(one.command("ping").args(["-c", "1", "-W", "2", &two.v4.to_string()])).unwrap();
        let left = two.command("sleep").arg("60").spawn();
        let bridge = pods.bridge();
        drop(pods);
        left.unwrap().wait().unwrap();
        assert!(!one.netns_path().exists());
        let links = output(Command::new("ip").args(["-o", "link"])).unwrap();
        assert!(!links.contains(&bridge) && !links.contains(&one.host_interface), "{links}");
    }
}
