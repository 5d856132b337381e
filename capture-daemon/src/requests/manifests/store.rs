//! What the directory's files say, as far as it is in force: per file what could be read last, and of two objects
//! with the same name the one that came first.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::document::Manifest;
use crate::requests::desired::{CaptureObject, PodObject};

/// The manifests in force.
#[derive(Debug, Default)]
pub struct Store {
    files: BTreeMap<OsString, Known>,
    /// Counts files; the smaller came first.
    next: u64,
    /// Conflicts that were told already.
    told: BTreeSet<String>,
}

#[derive(Debug)]
struct Known {
    order: u64,
    manifest: Manifest,
    /// Why what the file says now is not in force.
    broken: Option<String>,
}

impl Store {
    /// Takes over what a file says.
    pub fn take(&mut self, file: &OsStr, manifest: Manifest) {
        let order = self.files.get(file).map_or(self.next, |known| known.order);
        self.next += 1;
        self.files.insert(file.to_owned(), Known { order, manifest, broken: None });
    }

    /// A file cannot be read any more: what it said before stays in force. False if it said nothing.
    pub fn keep(&mut self, file: &OsStr, why: &str) -> bool {
        match self.files.get_mut(file) {
            Some(known) => {
                known.broken = Some(why.to_owned());
                !known.manifest.is_empty()
            }
            None => false,
        }
    }

    /// A file is gone. False if it was not known.
    pub fn remove(&mut self, file: &OsStr) -> bool {
        self.files.remove(file).is_some()
    }

    /// Whether anything is known of the file.
    #[must_use]
    pub fn knows(&self, file: &OsStr) -> bool {
        self.files.contains_key(file)
    }

    /// Whether the file spoke for an object that `manifest` does not hold.
    #[must_use]
    pub fn loses(&self, file: &OsStr, manifest: &Manifest) -> bool {
        let held: BTreeSet<_> = manifest.objects().collect();
        let known = self.files.get(file).map(|known| &known.manifest);
        known.is_some_and(|known| known.objects().any(|object| !held.contains(&object)))
    }

    /// All objects in force, and complaints about conflicts that are new.
    pub fn objects(&mut self) -> (Vec<PodObject>, Vec<CaptureObject>, Vec<String>) {
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_by_key(|(_, known)| known.order);
        let mut claims = Claims::default();
        let (mut pods, mut captures) = (Vec::new(), Vec::new());
        for (file, known) in files {
            let note = known.broken.as_ref().map(|why| {
                format!("manifest {file:?} cannot be read since its last change ({why}); what it said before stays in force")
            });
            for pod in &known.manifest.pods {
                if claims.claim("Pod", &pod.pod.namespace, &pod.pod.name, &pod.pod.uid, file) {
                    let mut pod = pod.clone();
                    pod.notes.extend(note.clone());
                    pods.push(pod);
                }
            }
            for capture in &known.manifest.captures {
                if claims.claim("PacketCapture", &capture.namespace, &capture.name, &capture.uid, file) {
                    let mut capture = capture.clone();
                    capture.notes.extend(note.clone());
                    captures.push(capture);
                }
            }
        }
        let new = claims.conflicts.difference(&self.told).cloned().collect();
        self.told = claims.conflicts;
        (pods, captures, new)
    }
}

/// Which file speaks for which object.
#[derive(Default)]
struct Claims<'a> {
    names: BTreeMap<(&'a str, &'a str, &'a str), &'a OsStr>,
    uids: BTreeMap<(&'a str, &'a str), &'a OsStr>,
    conflicts: BTreeSet<String>,
}

impl<'a> Claims<'a> {
    fn claim(
        &mut self,
        kind: &'a str,
        namespace: &'a str,
        name: &'a str,
        uid: &'a str,
        file: &'a OsStr,
    ) -> bool {
        let object = (kind, namespace, name);
        if let Some(first) = self.names.get(&object) {
            self.conflicts.insert(format!(
                "{kind} {namespace}/{name} in {file:?} is not taken: {first:?} names it already; remove one of them"
            ));
            return false;
        }
        if let Some(first) = self.uids.get(&(kind, uid)) {
            self.conflicts.insert(format!(
                "{kind} {namespace}/{name} in {file:?} is not taken: an object in {first:?} has the same metadata.uid \
                 {uid}; leave it out"
            ));
            return false;
        }
        self.names.insert(object, file);
        self.uids.insert((kind, uid), file);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::{Format, parse};
    use super::*;

    fn pod(name: &str, label: &str) -> Manifest {
        let text =
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{l: {label}}}}}}}");
        parse(&text, Format::Yaml).unwrap()
    }

    fn labels(store: &mut Store) -> Vec<String> {
        store.objects().0.iter().map(|pod| format!("{}={}", pod.pod.name, pod.pod.labels["l"])).collect()
    }

    #[test]
    fn of_two_manifests_of_a_pod_the_first_stays_until_it_is_gone() {
        let mut store = Store::default();
        store.take(OsStr::new("b"), pod("web", "first"));
        store.take(OsStr::new("a"), pod("web", "second"));
        let (pods, _, conflicts) = store.objects();
        assert_eq!(pods[0].pod.labels["l"], "first");
        assert_eq!(
            conflicts,
            ["Pod default/web in \"a\" is not taken: \"b\" names it already; remove one of them"]
        );
        // Told once; an edit of the first does not make it the second.
        store.take(OsStr::new("b"), pod("web", "edited"));
        assert!(store.objects().2.is_empty());
        assert_eq!(labels(&mut store), ["web=edited"]);
        assert!(store.remove(OsStr::new("b")));
        assert_eq!(labels(&mut store), ["web=second"]);
    }

    #[test]
    fn objects_of_one_uid_are_not_mixed_up() {
        let mut store = Store::default();
        for name in ["a", "b"] {
            let text = format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, uid: same}}}}");
            store.take(OsStr::new(name), parse(&text, Format::Yaml).unwrap());
        }
        let (pods, _, conflicts) = store.objects();
        assert_eq!((pods.len(), pods[0].pod.name.as_str(), conflicts.len()), (1, "a", 1));
    }

    #[test]
    fn a_broken_file_leaves_its_objects_in_force_with_a_note() {
        let mut store = Store::default();
        assert!(!store.keep(OsStr::new("a"), "half"));
        store.take(OsStr::new("a"), pod("web", "x"));
        assert!(store.keep(OsStr::new("a"), "line 3"));
        let (pods, _, _) = store.objects();
        assert_eq!(
            pods[0].notes,
            [
                "manifest \"a\" cannot be read since its last change (line 3); what it said before stays in force"
            ]
        );
        store.take(OsStr::new("a"), pod("web", "y"));
        assert!(store.objects().0[0].notes.is_empty());
    }
}
