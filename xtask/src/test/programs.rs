//! The test programs of the workspace, all built by one call of cargo: with fewer packages at a time, their dependencies
//! would have other features each time, and be compiled anew.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::output;
use crate::workspace::{cargo, root};

/// Test programs whose names begin with this need a cluster.
const CLUSTER: &str = "cluster_";

/// Which programs to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All there are.
    All,
    /// Those that need a cluster.
    Cluster,
}

/// One test program.
pub(super) struct Program {
    /// Its package.
    pub(super) package: String,
    /// Its target in the package.
    pub(super) target: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// Where its package is.
    pub(super) directory: PathBuf,
}

/// All of them.
pub(super) struct Programs {
    /// In the order of their names.
    pub(super) tests: Vec<Program>,
    /// Programs that tests call at the very path where cargo put them.
    pub(super) called: Vec<PathBuf>,
}

impl Programs {
    /// Builds them.
    pub(super) fn build(wanted: Wanted) -> Result<Self> {
        let mut build = cargo();
        build.args(["test", "--no-run", "--message-format=json-render-diagnostics"]);
        match wanted {
            // Neither examples, which lint compiles, nor documentation, which has no tests.
            Wanted::All => build.args(["--lib", "--bins", "--tests"]),
            Wanted::Cluster => build.args(["--test", &format!("{CLUSTER}*")]),
        };
        // What the compiler says goes to the terminal, what cargo has made comes here.
        let built = build.current_dir(root()).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !built.status.success() {
            bail!("the tests cannot be built: {}", built.status);
        }
        let messages = String::from_utf8_lossy(&built.stdout);
        let mut programs = Self { tests: Vec::new(), called: Vec::new() };
        for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let Some(path) = message["executable"].as_str().map(PathBuf::from) else { continue };
            if message["profile"]["test"] == true {
                programs.tests.push(Program::made(&message, path)?);
            } else {
                programs.called.push(path);
            }
        }
        programs.tests.sort_by_key(Program::name);
        Ok(programs)
    }
}

impl Program {
    /// As cargo's message says.
    fn made(message: &Value, path: PathBuf) -> Result<Self> {
        let package = message["package_id"].as_str().and_then(package_name).context("no package")?;
        let target = message["target"]["name"].as_str().context("no target")?;
        let manifest = message["manifest_path"].as_str().map(Path::new).context("no manifest")?;
        let directory = manifest.parent().context("no directory")?.to_owned();
        Ok(Self { package: package.to_owned(), target: target.to_owned(), path, directory })
    }

    /// Package and target.
    pub(super) fn name(&self) -> String {
        format!("{}-{}", self.package, self.target)
    }

    /// Whether its tests need a cluster.
    pub(super) fn needs_cluster(&self) -> bool {
        self.target.starts_with(CLUSTER)
    }

    /// Its tests that have this in their names: those that need root or a cluster, or all others.
    pub(super) fn list(&self, privileged: bool, name: Option<&str>) -> Result<Vec<String>> {
        let mut list = Command::new(&self.path);
        list.args(["--list", "--format=terse"]).current_dir(&self.directory);
        let all = output(&mut list)?;
        // Needing root, or a cluster, are the only reasons for which this workspace ignores a test.
        let ignored = output(list.arg("--ignored"))?;
        let ignored: Vec<&str> = named(&ignored).collect();
        let chosen = named(&all).filter(|test| ignored.contains(test) == privileged);
        Ok(chosen.filter(|test| name.is_none_or(|name| test.contains(name))).map(str::to_owned).collect())
    }
}

/// The tests in what a program lists.
fn named(list: &str) -> impl Iterator<Item = &str> {
    list.lines().filter_map(|line| line.strip_suffix(": test"))
}

/// The package's name in cargo's `path+file:///directory#name@version`, where the name may be the directory's.
fn package_name(id: &str) -> Option<&str> {
    let (path, version) = id.rsplit_once('#')?;
    match version.split_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

#[cfg(test)]
mod tests {
    use super::package_name;

    #[test]
    fn packages_are_known_by_their_names() {
        assert_eq!(package_name("path+file:///x/tests#podtap-tests@0.1.0"), Some("podtap-tests"));
        assert_eq!(package_name("path+file:///x/capture-filter#0.1.0"), Some("capture-filter"));
    }
}
