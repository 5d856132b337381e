//! A node: a machine with containerd and a kubelet.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::certificates::{certificate_file, key_file, kubeconfig, write_private};
use super::cgroups;
use super::control::{show, words};
use super::layout::{DNS, Node, home, program};
use super::machine::{Machine, Service, wait};
use crate::image::PAUSE;
use crate::workspace::find_program;

/// Names of a node's programs, in the order in which they start.
pub(super) const NAMES: [&str; 2] = ["containerd", "kubelet"];

const SOCKET: &str = "/run/containerd/containerd.sock";

/// Images come by [`Node::load`]; asking for another one fails at once instead of asking the world.
const NO_REGISTRY: &str = "server = \"http://127.0.0.1:9\"\n";

/// Where Debian has the plugins.
const CNI_PLUGINS: &str = "/usr/lib/cni";

impl Node {
    /// The machine that it is.
    pub(super) fn machine(&self) -> Machine {
        Machine { name: self.name, netns: self.netns, has_disk: true }
    }

    /// Starts the machine and its programs, whichever of them do not run.
    pub(super) fn start(&self) -> Result<()> {
        cgroups::make(self.name)?;
        self.configure()?;
        self.machine().boot()?;
        for name in NAMES {
            self.machine().start(&self.service(name)?)?;
            if name == "containerd" {
                // A kubelet that does not find it gives up.
                wait(&format!("{}'s containerd", self.name), || self.ctr(&["version"], None).is_ok())?;
            }
        }
        Ok(())
    }

    /// As a loss of power does. Its disk stays.
    pub(super) fn power_off(&self) -> Result<()> {
        self.machine().kill()?;
        cgroups::remove(self.name)
    }

    /// Gives it the images of an archive.
    pub(super) fn load(&self, archive: &Path) -> Result<()> {
        self.ctr(&["images", "import", "-"], Some(archive))
            .with_context(|| format!("{} does not take {}", self.name, archive.display()))
    }

    /// One of its programs.
    pub(super) fn service(&self, name: &'static str) -> Result<Service> {
        let (program, arguments) = match name {
            "containerd" => {
                let program = find_program("containerd").context("no containerd")?;
                (
                    program,
                    words(&[
                        ("config", &show(&self.directory().join("containerd.toml"))),
                        ("log-level", "info"),
                    ]),
                )
            }
            "kubelet" => (
                program("kubelet"),
                words(&[
                    ("config", &show(&self.directory().join("kubelet.yaml"))),
                    ("kubeconfig", &show(&self.directory().join("kubeconfig"))),
                    ("hostname-override", self.name),
                    ("node-ip", self.address),
                ]),
            ),
            _ => bail!("there is no {name}"),
        };
        Ok(Service { name, program, arguments })
    }

    /// What its programs read.
    fn directory(&self) -> PathBuf {
        home().join(format!("{}.etc", self.name))
    }

    fn configure(&self) -> Result<()> {
        let directory = self.directory();
        let network = directory.join("cni");
        fs::create_dir_all(&network)?;
        write_private(&directory.join("kubeconfig"), &kubeconfig(self.name))?;
        fs::write(directory.join("kubelet.yaml"), self.kubelet().to_string())?;
        fs::write(directory.join("containerd.toml"), self.containerd(&network))?;
        fs::write(network.join("podtap.conflist"), self.network().to_string())?;
        let every_registry = self.registries().join("_default");
        fs::create_dir_all(&every_registry)?;
        fs::write(every_registry.join("hosts.toml"), NO_REGISTRY)?;
        Ok(())
    }

    fn kubelet(&self) -> serde_json::Value {
        let serving = format!("{}-serving", self.name);
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": self.address,
            "healthzPort": 0,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": certificate_file("ca")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": certificate_file(&serving),
            "tlsPrivateKeyFile": key_file(&serving),
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "staticPodPath": "/var/lib/kubelet/manifests",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "resolvConf": "",
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "maxPods": 300,
            // This machine's disk and memory are not the cluster's to manage.
            "failSwapOn": false,
            "evictionHard": {},
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": false,
            "imageGCHighThresholdPercent": 100,
            "makeIPTablesUtilChains": false,
            "oomScoreAdj": 0,
            // Works on a machine without systemd, and with both versions of control groups.
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups::group(self.name),
            "failCgroupV1": false,
        })
    }

    fn containerd(&self, network: &Path) -> String {
        format!(
            r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Some machines may not lower it.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{}"

[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
            network.display(),
            self.registries().display(),
        )
    }

    /// Where containerd reads where registries are.
    fn registries(&self) -> PathBuf {
        self.directory().join("registries")
    }

    /// The bridge is there already, with its addresses; the plugin would switch on forwarding for the whole host.
    fn network(&self) -> serde_json::Value {
        let range =
            |subnet: &super::layout::Subnet| json!([{"subnet": subnet.network, "gateway": subnet.gateway}]);
        json!({
            "cniVersion": "0.4.0",
            "name": "podtap",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": self.bridge,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": "/var/lib/cni/networks",
                        "ranges": [range(&self.pods), range(&self.pods6)],
                        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                    },
                },
                // Does something only for pods that ask for it.
                {"type": "bandwidth", "capabilities": {"bandwidth": true}},
            ],
        })
    }

    fn ctr(&self, arguments: &[&str], input: Option<&Path>) -> Result<()> {
        let mut command = self.machine().command("ctr")?;
        command.args(["--address", SOCKET, "--namespace", "k8s.io"]).args(arguments);
        command.stdin(match input {
            Some(file) => Stdio::from(File::open(file)?),
            None => Stdio::null(),
        });
        let output = command.output().context("cannot start ctr")?;
        if !output.status.success() {
            bail!("ctr: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}
