//! A namespace for one test.

use std::cell::OnceCell;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{CALL, Cluster, PodManifest, RunningPod, SOON, wait};

/// A namespace that goes when this is dropped, with all that is in it; not waited for.
#[derive(Debug)]
pub struct Namespace<'a> {
    /// The cluster that it is in.
    pub cluster: &'a Cluster,
    name: String,
    /// The CapturePolicy that was made for it, which goes with it.
    pub(super) policy: OnceCell<String>,
}

impl<'a> Namespace<'a> {
    /// Makes one, whose name begins with `prefix`, with these labels.
    pub fn make(cluster: &'a Cluster, prefix: &str, labels: &[(&str, &str)]) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        Self::named(cluster, &name, labels)
    }

    /// Makes one of that very name. One that an earlier run left under it is waited for until it is gone.
    pub fn named(cluster: &'a Cluster, name: &str, labels: &[(&str, &str)]) -> Result<Self> {
        let labels: Value = labels.iter().map(|(key, value)| (key.to_string(), json!(value))).collect();
        cluster.kubectl_within(SOON, &["delete", "namespace", name, "--ignore-not-found"])?;
        cluster.create(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        }))?;
        let namespace = Self { cluster, name: name.to_owned(), policy: OnceCell::new() };
        // Pods are refused before.
        wait("the namespace's service account", SOON, || {
            namespace.kubectl(&["get", "serviceaccount", "default"]).map(Some)
        })?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// kubectl in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.cluster.kubectl(&self.words(arguments))
    }

    /// `kubectl get` in this namespace, as JSON.
    pub fn get_json(&self, arguments: &[&str]) -> Result<Value> {
        self.cluster.get_json(&self.words(arguments))
    }

    fn words<'b>(&'b self, arguments: &[&'b str]) -> Vec<&'b str> {
        [&["--namespace", &self.name], arguments].concat()
    }

    /// Creates or changes an object in this namespace.
    pub fn apply(&self, object: &Value) -> Result<()> {
        let mut object = object.clone();
        object["metadata"]["namespace"] = json!(self.name);
        self.cluster.apply(&object)
    }

    /// Makes a pod and waits until all its containers run.
    pub fn run(&self, pod: &PodManifest) -> Result<RunningPod> {
        self.apply(&pod.manifest())?;
        self.wait_running(pod.name())
    }

    /// Makes several pods, then waits for all.
    pub fn run_all(&self, pods: &[PodManifest]) -> Result<Vec<RunningPod>> {
        let items: Vec<Value> = pods
            .iter()
            .map(|pod| {
                let mut manifest = pod.manifest();
                manifest["metadata"]["namespace"] = json!(self.name);
                manifest
            })
            .collect();
        self.cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?;
        pods.iter().map(|pod| self.wait_running(pod.name())).collect()
    }

    /// Waits until a pod's containers all run.
    pub fn wait_running(&self, pod: &str) -> Result<RunningPod> {
        let found = wait(&format!("pod {pod} to run"), SOON, || {
            let pod = self.get_json(&["pod", pod])?;
            let all = pod["status"]["containerStatuses"].as_array().is_some_and(|containers| {
                !containers.is_empty() && containers.iter().all(|one| one["state"]["running"].is_object())
            });
            Ok(all.then(|| RunningPod::from_json(&pod)).flatten())
        });
        found.with_context(|| self.kubectl(&["describe", "pod", pod]).unwrap_or_default())
    }

    /// Waits until a pod is over, and tells its phase: `Succeeded` or `Failed`.
    pub fn wait_over(&self, pod: &str) -> Result<String> {
        wait(&format!("pod {pod} to end"), SOON, || {
            let pod = self.get_json(&["pod", pod])?;
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            Ok(["Succeeded", "Failed"].contains(&phase).then(|| phase.to_owned()))
        })
    }

    /// Deletes a pod at once and waits until it is gone.
    pub fn delete_pod(&self, pod: &str) -> Result<()> {
        let words = self.words(&["delete", "pod", pod, "--grace-period=1"]);
        self.cluster.kubectl_within(SOON, &words).map(|_| ())
    }

    /// Runs a program in a pod's first container and gives what it printed.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.exec_within(CALL, pod, command)
    }

    /// As [`exec`](Self::exec), that long at most.
    pub fn exec_within(&self, limit: Duration, pod: &str, command: &[&str]) -> Result<String> {
        self.cluster.kubectl_within(limit, &[&self.words(&["exec", pod, "--"])[..], command].concat())
    }

    /// Copies a file out of a pod, as `kubectl cp` does.
    pub fn copy_out(&self, pod: &str, path: &str, to: &Path) -> Result<()> {
        copy_out(self.cluster, &self.name, pod, path, to)
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        let policy = self.policy.get().map(|name| ("capturepolicy", name));
        for (kind, name) in policy.into_iter().chain([("namespace", &self.name)]) {
            let words = ["delete", kind, name, "--wait=false", "--ignore-not-found"];
            if let Err(error) = self.cluster.kubectl(&words) {
                eprintln!("{kind} {name} may be left: {error:#}");
            }
        }
    }
}

/// Copies a file out of a pod, as `kubectl cp` does.
pub(super) fn copy_out(cluster: &Cluster, namespace: &str, pod: &str, path: &str, to: &Path) -> Result<()> {
    let to_text = to.to_str().context("not a path of text")?;
    cluster.kubectl_within(SOON, &["cp", &format!("{namespace}/{pod}:{path}"), to_text])?;
    // kubectl's tar says nothing of a file that is not there.
    ensure!(to.is_file(), "kubectl cp left no {}", to.display());
    Ok(())
}

impl Cluster {
    /// Copies a file out of any pod, as `kubectl cp` does.
    pub fn copy_out(&self, namespace: &str, pod: &str, path: &str, to: &Path) -> Result<()> {
        copy_out(self, namespace, pod, path, to)
    }
}
