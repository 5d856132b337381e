//! From a manifest's text to pods and captures.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use capture_api::strict::{self, FieldError, Problem};
use capture_api::{API_VERSION, Refusal, keys, names, reasons};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Map, Value};

use crate::pods::{Place, PodPlace};
use crate::requests::capture::{read_spec, refusal};
use crate::requests::desired::{CaptureObject, PodObject};
use crate::session::wanted::PodRef;

/// How a file's text is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2, many documents.
    Yaml,
    /// JSON, many values.
    Json,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Manifest {
    /// Its pods.
    pub pods: Vec<PodObject>,
    /// Its captures.
    pub captures: Vec<CaptureObject>,
    /// What is wrong and cannot be attributed to a record, one sentence each.
    pub complaints: Vec<String>,
    /// Objects of other kinds, one sentence each.
    pub ignored: Vec<String>,
}

/// Reads a manifest. What is wrong with one object is kept with the object where it can be told whose it is.
///
/// # Errors
/// The text is no YAML (or JSON) as a whole, perhaps because it is half-written; says where.
pub fn parse(text: &str, format: Format) -> Result<Manifest, String> {
    let documents: Vec<Value> = match format {
        Format::Json => serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| error.to_string())?,
        Format::Yaml => {
            let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
            serde_saphyr::from_multiple_with_options(text, options).map_err(|error| error.to_string())?
        }
    };
    let mut manifest = Manifest::default();
    for document in documents {
        manifest.add(document, true);
    }
    Ok(manifest)
}

impl Manifest {
    /// Whether it holds nothing at all, not even something to complain of.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
            && self.captures.is_empty()
            && self.complaints.is_empty()
            && self.ignored.is_empty()
    }

    /// Its objects, by kind, namespace and name.
    pub fn objects(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let pods = self.pods.iter().map(|pod| ("Pod", pod.pod.namespace.as_str(), pod.pod.name.as_str()));
        let captures = self.captures.iter();
        pods.chain(
            captures.map(|capture| ("PacketCapture", capture.namespace.as_str(), capture.name.as_str())),
        )
    }

    fn add(&mut self, document: Value, lists: bool) {
        let Value::Object(mut fields) = document else {
            if !document.is_null() {
                self.complaints.push(format!("holds {}, which is no object", shown(&document)));
            }
            return;
        };
        let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if lists
            && kind.ends_with("List")
            && let Some(Value::Array(items)) = fields.remove("items")
        {
            items.into_iter().for_each(|item| self.add(item, false));
            return;
        }
        let identity = match Identity::of(&kind, &fields) {
            Ok(identity) => identity,
            Err(complaint) => return self.complaints.push(complaint),
        };
        let what = format!("{kind} {}/{}", identity.namespace, identity.name);
        match (api_version.as_str(), kind.as_str()) {
            ("v1", "Pod") => self.pods.push(pod(identity, fields)),
            (API_VERSION, "PacketCapture") => match capture(identity, fields) {
                Ok(capture) => self.captures.push(capture),
                Err(refusal) => self.complaints.push(format!("{what}: {refusal}")),
            },
            (other, "Pod" | "PacketCapture") => {
                let expected = if kind == "Pod" { "v1" } else { API_VERSION };
                self.complaints.push(format!("{what}: apiVersion is \"{other}\"; write {expected}"));
            }
            _ => self.ignored.push(format!("{what}: only Pod and PacketCapture manifests are read")),
        }
    }
}

/// Whose object it is.
struct Identity {
    namespace: String,
    name: String,
    uid: String,
}

impl Identity {
    fn of(kind: &str, object: &Map<String, Value>) -> Result<Self, String> {
        if kind.is_empty() {
            return Err("holds an object without a kind; write kind: Pod or kind: PacketCapture".to_owned());
        }
        let metadata = object.get("metadata").and_then(Value::as_object);
        let field =
            |name: &str| metadata.and_then(|metadata| metadata.get(name)).filter(|value| !value.is_null());
        let Some(name) = field("name") else {
            return Err(format!("holds a {kind} without metadata.name"));
        };
        let Some(name) = name.as_str().filter(|name| names::is_subdomain(name)) else {
            return Err(format!(
                "holds a {kind} whose metadata.name {} is no name: write at most 253 lower-case letters, digits, \
                 - and .",
                shown(name)
            ));
        };
        let namespace = match field("namespace") {
            None => "default",
            Some(value) => value.as_str().filter(|namespace| names::is_dns_label(namespace)).ok_or_else(|| {
                format!(
                    "{kind} {name}: metadata.namespace {} is no namespace: write at most 63 lower-case letters, \
                     digits and -",
                    shown(value)
                )
            })?,
        };
        let uid = match field("uid") {
            None => names::derived_uid(kind, namespace, name),
            Some(value) => value
                .as_str()
                .filter(|uid| {
                    (1..=128).contains(&uid.len()) && uid.bytes().all(|byte| byte.is_ascii_graphic())
                })
                .ok_or_else(|| {
                    format!(
                        "{kind} {namespace}/{name}: metadata.uid {} is no UID; leave it out",
                        shown(value)
                    )
                })?
                .to_owned(),
        };
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned(), uid })
    }
}

fn pod(identity: Identity, mut fields: Map<String, Value>) -> PodObject {
    let mut problem = None;
    let labels = texts(&mut fields, "labels", &mut problem);
    let annotations = texts(&mut fields, "annotations", &mut problem);
    let mut addresses = Vec::new();
    let mut ended = false;
    match serde_json::from_value::<Pod>(Value::Object(fields)) {
        Ok(pod) => {
            if pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true) {
                problem.get_or_insert(Refusal::new(
                    reasons::HOST_NETWORK,
                    "The pod uses the node's own network (spec.hostNetwork), which holds everybody's packets; it \
                     cannot be captured.",
                ));
            }
            addresses = addresses_of(&pod);
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            ended =
                pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed"));
        }
        Err(error) => {
            problem.get_or_insert(Refusal::new(
                reasons::INVALID_VALUE,
                format!("The pod cannot be read: {error}."),
            ));
        }
    }
    let Identity { namespace, name, uid } = identity;
    let named = keys::PLACES.iter().any(|key| annotations.contains_key(*key));
    let place = if named || uid == names::derived_uid("Pod", &namespace, &name) {
        place(&annotations).map_err(|refusal| problem.get_or_insert(refusal)).ok()
    } else {
        // As Kubernetes tells it: on a host with a CNI, its interface is found.
        let hash = annotations.get(CONFIG_HASH);
        Some(Place::Pod(PodPlace {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
            sandbox_uids: [Some(&uid), hash].into_iter().flatten().cloned().collect(),
            addresses: if ended { Vec::new() } else { addresses.clone() },
            interface: None,
        }))
    };
    let pod = PodRef { namespace, namespace_uid: String::new(), name, uid, labels, addresses, place };
    PodObject { pod, annotations, problem, notes: Vec::new() }
}

/// Labels or annotations. Values that are no texts are what everybody forgets to quote: they are read and refused.
fn texts(
    fields: &mut Map<String, Value>,
    which: &str,
    problem: &mut Option<Refusal>,
) -> BTreeMap<String, String> {
    let refuse = |problem: &mut Option<Refusal>, message| {
        problem.get_or_insert(Refusal::new(reasons::INVALID_VALUE, message));
    };
    let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else {
        return BTreeMap::new();
    };
    let values = match metadata.get_mut(which) {
        None | Some(Value::Null) => return BTreeMap::new(),
        Some(Value::Object(values)) => values,
        Some(other) => {
            refuse(problem, format!("metadata.{which} is {}; write `key: \"value\"` lines.", shown(other)));
            metadata.remove(which);
            return BTreeMap::new();
        }
    };
    let mut all = BTreeMap::new();
    for (key, value) in values {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => {
                let text = value.to_string();
                let message = format!("metadata.{which}: {key} is no text; write \"{text}\" in quotes.");
                refuse(problem, message);
                text
            }
            _ => {
                refuse(problem, format!("metadata.{which}: {key} is {}, not a text.", shown(value)));
                String::new()
            }
        };
        *value = Value::String(text.clone());
        all.insert(key.clone(), text);
    }
    all
}

fn addresses_of(pod: &Pod) -> Vec<IpAddr> {
    let Some(status) = &pod.status else { return Vec::new() };
    let listed = status.pod_ips.iter().flatten().map(|address| address.ip.as_str());
    let mut addresses: Vec<IpAddr> =
        listed.chain(status.pod_ip.as_deref()).filter_map(|address| address.parse().ok()).collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Annotation of static pods: what container runtimes know them by.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Where the manifest says that the pod's traffic passes.
fn place(annotations: &BTreeMap<String, String>) -> Result<Place, Refusal> {
    let refuse = |message: String| Err(Refusal::new(reasons::INVALID_INTERFACE, message));
    match (annotations.get(keys::INTERFACE), annotations.get(keys::NETNS)) {
        (Some(_), Some(_)) => refuse(format!(
            "Annotations {} and {} are both set; leave one of them out.",
            keys::INTERFACE,
            keys::NETNS
        )),
        (None, None) => refuse(format!(
            "Where does the pod's traffic pass? Write the annotation {} (the host's end of its interface) or {} (the \
             path of its network namespace), or metadata.uid, by which a CNI's results are looked through.",
            keys::INTERFACE,
            keys::NETNS
        )),
        (Some(name), None) if is_interface_name(name) => Ok(Place::Interface(name.clone())),
        (Some(name), None) => refuse(format!(
            "annotation {}: {name:?} is no interface's name; write one that `ip link` shows.",
            keys::INTERFACE
        )),
        (None, Some(path)) if path.starts_with('/') && !path.contains('\0') => {
            Ok(Place::Netns(PathBuf::from(path)))
        }
        (None, Some(path)) => refuse(format!(
            "annotation {}: {path:?} is no absolute path; write one such as /run/netns/NAME.",
            keys::NETNS
        )),
    }
}

/// The kernel's own rule (`dev_valid_name`, net/core/dev.c).
fn is_interface_name(name: &str) -> bool {
    (1..16).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name.bytes().any(|byte| byte == b'/' || byte == b':' || byte == 0 || byte.is_ascii_whitespace())
}

/// An error is one that cannot be attributed to pods.
fn capture(identity: Identity, mut fields: Map<String, Value>) -> Result<CaptureObject, Refusal> {
    const KNOWN: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
    let unknown = fields.keys().find(|key| !KNOWN.contains(&key.as_str())).map(|key| {
        let nearest = strict::nearest(key, KNOWN).map(str::to_owned);
        let known = KNOWN.map(str::to_owned).to_vec();
        FieldError { path: key.clone(), problem: Problem::Unknown { nearest, known } }
    });
    let spec = fields.remove("spec").unwrap_or_else(|| Value::Object(Map::new()));
    let read = read_spec(spec)?;
    let Identity { namespace, name, uid } = identity;
    Ok(CaptureObject {
        namespace,
        name,
        uid,
        accepted: None,
        selection: read.selection,
        spec: unknown.map_or(read.spec, |error| Err(refusal(&error))),
        notes: Vec::new(),
    })
}

/// A value in a message: as JSON, not too long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests;
