//! The programs that are the cluster's mind: etcd, the API server, the controllers and the scheduler.

use std::path::Path;

use anyhow::{Context, Result};

use super::certificates::{certificate_file, key_file, kubeconfig, tokens_public, write_private};
use super::layout::{API, ETCD, ETCD_PEER, HOST, SERVICES, home, program};
use super::machine::{Machine, Service};
use crate::workspace::find_program;

/// Where they run: on the host's network, as node1 does.
pub(super) const MACHINE: Machine = Machine { name: "control", netns: None, has_disk: false };

/// Names of the programs, in the order in which they start.
pub(super) const NAMES: [&str; 4] = ["etcd", "api", "controllers", "scheduler"];

/// Writes what they read.
pub(super) fn configure() -> Result<()> {
    for holder in ["controllers", "scheduler"] {
        write_private(&home().join(format!("{holder}.kubeconfig")), &kubeconfig(holder))?;
    }
    Ok(())
}

/// One of them.
pub(super) fn service(name: &'static str) -> Result<Service> {
    let (program, arguments) = match name {
        "etcd" => (find_program("etcd").context("no etcd")?, etcd()),
        "api" => (program("kube-apiserver"), api()),
        "controllers" => (program("kube-controller-manager"), controllers()),
        "scheduler" => (program("kube-scheduler"), scheduler()),
        _ => anyhow::bail!("there is no {name}"),
    };
    Ok(Service { name, program, arguments })
}

fn etcd() -> Vec<String> {
    words(&[
        ("data-dir", &show(&MACHINE.disk())),
        ("listen-client-urls", ETCD),
        ("advertise-client-urls", ETCD),
        ("listen-peer-urls", ETCD_PEER),
        ("initial-advertise-peer-urls", ETCD_PEER),
        ("initial-cluster", &format!("default={ETCD_PEER}")),
        // What is in it lives no longer than this machine is up.
        ("unsafe-no-fsync", "true"),
        ("log-level", "warn"),
    ])
}

fn api() -> Vec<String> {
    let key = |name: &str| show(&key_file(name));
    let certificate = |name: &str| show(&certificate_file(name));
    words(&[
        ("etcd-servers", ETCD),
        ("bind-address", API),
        ("secure-port", "443"),
        ("advertise-address", HOST),
        // The service's address is the API server's own: it needs no endpoints.
        ("endpoint-reconciler-type", "none"),
        ("service-cluster-ip-range", SERVICES),
        ("tls-cert-file", &certificate("apiserver")),
        ("tls-private-key-file", &key("apiserver")),
        ("client-ca-file", &certificate("ca")),
        ("kubelet-certificate-authority", &certificate("ca")),
        ("kubelet-client-certificate", &certificate("apiserver-kubelet")),
        ("kubelet-client-key", &key("apiserver-kubelet")),
        ("kubelet-preferred-address-types", "InternalIP"),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("allow-privileged", "true"),
        ("service-account-issuer", "https://kubernetes.default.svc"),
        ("service-account-key-file", &show(&tokens_public())),
        ("service-account-signing-key-file", &key("tokens")),
    ])
}

fn controllers() -> Vec<String> {
    words(&[
        ("kubeconfig", &show(&home().join("controllers.kubeconfig"))),
        // Alone, and there again at once when the API server was away.
        ("leader-elect", "false"),
        ("secure-port", "0"),
        ("use-service-account-credentials", "true"),
        ("root-ca-file", &show(&certificate_file("ca"))),
        ("service-account-private-key-file", &show(&key_file("tokens"))),
        ("cluster-signing-cert-file", &show(&certificate_file("ca"))),
        ("cluster-signing-key-file", &show(&key_file("ca"))),
        ("allocate-node-cidrs", "false"),
        // Tests of lost nodes need not wait as long as people would.
        ("node-monitor-grace-period", "20s"),
    ])
}

fn scheduler() -> Vec<String> {
    words(&[
        ("kubeconfig", &show(&home().join("scheduler.kubeconfig"))),
        ("leader-elect", "false"),
        ("secure-port", "0"),
    ])
}

/// Flags with their values.
pub(super) fn words(flags: &[(&str, &str)]) -> Vec<String> {
    flags.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

pub(super) fn show(path: &Path) -> String {
    path.display().to_string()
}
