//! What libcni keeps of each interface that a CNI gave to a sandbox: one JSON file, written when the whole chain of
//! plugins is done (`cachedInfo`, libcni/api.go; result of the CNI specification, section 5).
//!
//! Container runtimes write these files as root, but names and configuration in them come from elsewhere: only what
//! is well formed is believed, and only namespaces below the directory for them are named.

use std::net::IpAddr;

use serde::Deserialize;

/// Where container runtimes keep network namespaces; the same directory on a host, where /var/run is a link.
pub(super) const NETNS_DIRS: [&str; 2] = ["/var/run/netns", "/run/netns"];

/// One interface of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attachment {
    /// `K8S_POD_UID`: the pod's UID, or a static pod's hash.
    pub(super) uid: String,
    /// `K8S_POD_NAMESPACE`
    pub(super) namespace: String,
    /// `K8S_POD_NAME`
    pub(super) pod: String,
    /// The sandbox.
    pub(super) container: String,
    /// The interface's name inside.
    pub(super) interface: String,
    /// Name of the network namespace's file in one of [`NETNS_DIRS`].
    pub(super) netns: String,
    /// The addresses that it was given.
    pub(super) addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedInfo {
    container_id: String,
    if_name: String,
    /// Since libcni 1.2.
    netns: Option<String>,
    cni_args: Option<Vec<(String, String)>>,
    result: Option<CniResult>,
}

#[derive(Default, Deserialize)]
struct CniResult {
    interfaces: Option<Vec<CniInterface>>,
    ips: Option<Vec<CniAddress>>,
}

#[derive(Deserialize)]
struct CniInterface {
    name: Option<String>,
    sandbox: Option<String>,
}

#[derive(Deserialize)]
struct CniAddress {
    address: Option<String>,
}

/// Reads a file of the cache.
///
/// # Errors
/// It is no such file, belongs to no pod, or does not say where the interface is.
pub(super) fn parse(json: &[u8]) -> Result<Attachment, String> {
    let info: CachedInfo = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let args = info.cni_args.unwrap_or_default();
    let arg = |wanted: &str| {
        let mut values = args.iter().filter(|(key, _)| key == wanted).map(|(_, value)| value);
        match (values.next(), values.next()) {
            (Some(value), None) if !value.is_empty() => Ok(value.clone()),
            (Some(_), Some(_)) => Err(format!("{wanted} is there more than once")),
            _ => Err(format!("there is no {wanted}")),
        }
    };
    let result = info.result.unwrap_or_default();
    // Plugins also list what they made on the host, such as the bridge, often first. The interface in question is the
    // one that was asked for, and is in the sandbox.
    let interfaces = result.interfaces.unwrap_or_default();
    let sandboxes = interfaces
        .iter()
        .filter(|interface| interface.name.as_ref() == Some(&info.if_name))
        .filter_map(|interface| interface.sandbox.as_deref())
        .filter(|sandbox| !sandbox.is_empty());
    let mut namespaces: Vec<&str> = Vec::new();
    for path in sandboxes.chain(info.netns.as_deref().filter(|path| !path.is_empty())) {
        let name = netns_name(path)
            .ok_or_else(|| format!("{path:?} is no network namespace below {}", NETNS_DIRS[0]))?;
        if !namespaces.contains(&name) {
            namespaces.push(name);
        }
    }
    let netns = match namespaces[..] {
        [name] => name.to_owned(),
        [] => return Err(format!("it does not say in which network namespace {:?} is", info.if_name)),
        _ => return Err("it names several network namespaces".into()),
    };
    if info.if_name.is_empty() || info.container_id.is_empty() {
        return Err("the interface or the sandbox has no name".into());
    }
    let addresses = result.ips.unwrap_or_default();
    let addresses = addresses.iter().filter_map(|ip| ip.address.as_deref()?.split('/').next()?.parse().ok());
    Ok(Attachment {
        uid: arg("K8S_POD_UID")?,
        namespace: arg("K8S_POD_NAMESPACE")?,
        pod: arg("K8S_POD_NAME")?,
        container: info.container_id,
        interface: info.if_name,
        netns,
        addresses: addresses.collect(),
    })
}

/// The name of a namespace's file, when its path is one directly in [`NETNS_DIRS`].
fn netns_name(path: &str) -> Option<&str> {
    let name = NETNS_DIRS.iter().find_map(|dir| path.strip_prefix(dir)?.strip_prefix('/'))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (!name.is_empty() && name.len() < 256 && !name.starts_with('.') && name.bytes().all(plain))
        .then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// As containerd and the bridge plugin write it.
    fn file() -> Value {
        json!({
            "kind": "cniCacheV1", "containerId": "c0ffee", "config": "e30=", "ifName": "eth0", "networkName": "pods",
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "team-a"], ["K8S_POD_NAME", "web"],
                ["K8S_POD_INFRA_CONTAINER_ID", "c0ffee"], ["K8S_POD_UID", "uid-web"]],
            "capabilityArgs": {},
            "result": {
                "cniVersion": "1.0.0", "dns": {},
                "interfaces": [
                    {"name": "cni0", "mac": "02:00:00:00:00:01"},
                    {"name": "veth1", "mac": "02:00:00:00:00:02"},
                    {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/cni-1"}
                ],
                "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 2}, {"address": "fd00::5/64"}]
            }
        })
    }

    fn parsed(file: &Value) -> Result<Attachment, String> {
        parse(file.to_string().as_bytes())
    }

    #[test]
    fn a_file_of_the_bridge_plugin_names_pod_interface_and_namespace() {
        let expected = Attachment {
            uid: "uid-web".into(),
            namespace: "team-a".into(),
            pod: "web".into(),
            container: "c0ffee".into(),
            interface: "eth0".into(),
            netns: "cni-1".into(),
            addresses: vec!["10.1.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        };
        assert_eq!(parsed(&file()), Ok(expected));
    }

    #[test]
    fn a_bridge_that_calls_itself_like_the_pods_interface_is_not_taken() {
        let mut file = file();
        file["result"]["interfaces"][0] = json!({"name": "eth0", "sandbox": ""});
        assert_eq!(parsed(&file).unwrap().netns, "cni-1");
        // The interface of another name in a sandbox is another network's.
        file["result"]["interfaces"][2]["name"] = json!("net1");
        assert!(parsed(&file).unwrap_err().contains("does not say in which network namespace \"eth0\" is"));
    }

    #[test]
    fn a_result_without_interfaces_needs_libcnis_own_word() {
        let mut file = file();
        file["result"] = Value::Null;
        assert!(parsed(&file).is_err());
        file["netns"] = json!("/run/netns/cni-2");
        assert_eq!(parsed(&file).unwrap().netns, "cni-2");
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "/proc/1/ns/net",
            "/var/run/netns/../../../proc/1/ns/net",
            "/var/run/netns/",
            "/var/run/netns",
            "/var/run/netns/..",
            "/var/run/netns/a/b",
            "/var/run/netns/.hidden",
            "/var/run/netns/a\0b",
            "/var/run/netnsx/a",
            "var/run/netns/a",
            "cni-1",
        ] {
            let mut file = file();
            file["result"]["interfaces"][2]["sandbox"] = json!(path);
            assert!(parsed(&file).is_err(), "{path:?}");
        }
    }

    #[test]
    fn two_namespaces_or_two_pods_in_one_file_are_nobodys() {
        let mut two = file();
        two["netns"] = json!("/run/netns/cni-2");
        assert_eq!(parsed(&two), Err("it names several network namespaces".into()));
        let mut two = file();
        two["cniArgs"].as_array_mut().unwrap().push(json!(["K8S_POD_UID", "other"]));
        assert_eq!(parsed(&two), Err("K8S_POD_UID is there more than once".into()));
    }

    #[test]
    fn what_is_no_such_file_is_an_error() {
        for bytes in [&b""[..], b"{", b"[]", b"null", b"{\"containerId\":1}", b"\xff\xfe", &[b'['; 100_000]] {
            assert!(parse(bytes).is_err());
        }
        let mut loopback = file();
        loopback["cniArgs"] = Value::Null;
        assert_eq!(parsed(&loopback), Err("there is no K8S_POD_UID".into()));
    }
}
