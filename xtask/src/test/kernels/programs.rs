//! Which tests run on other kernels, and the programs that hold them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::output;
use crate::test::cluster::PREFIX as CLUSTER;
use crate::workspace::{cargo, root};

/// Tests of one program, by parts of their names.
enum Chosen {
    /// All that need root.
    All,
    /// All but these.
    But(&'static [&'static str]),
    /// These.
    Only(&'static [&'static str]),
}

/// What is left out measures rates, floods, or runs long without saying anything about the kernel: an emulated machine
/// is ten times slower. What is not named here does not depend on the kernel.
const TESTS: [(&str, &str, Chosen); 13] = [
    ("capture-daemon", "verifier", Chosen::All),
    (
        "capture-daemon",
        "datapath",
        Chosen::But(&[
            "rate_holds",
            "under_a_flood",
            "a_full_ring_is_counted",
            "bytes::snap_length_cuts",
            "exceeds_the_largest_record",
        ]),
    ),
    ("capture-daemon", "filter", Chosen::All),
    (
        "capture-filter",
        "kernel",
        Chosen::But(&[
            "each_expression_matches",
            "long_lists",
            "generated_expressions",
            "programs_that_no_expression",
        ]),
    ),
    ("podtap-tests", "podtap_tests", Chosen::Only(&["pods_reach_each_other"])),
    ("podtap-tests", "changes", Chosen::Only(&["a_capture_pauses", "removing_the_label"])),
    ("podtap-tests", "files", Chosen::Only(&["a_file_says_where"])),
    (
        "podtap-tests",
        "interfaces",
        Chosen::Only(&["an_interface_that_appears_later", "an_index_used_again", "nothing_stays"]),
    ),
    (
        "podtap-tests",
        "interfaces_found",
        Chosen::Only(&[
            "an_interface_other_than",
            "a_pod_is_found_by_its_address",
            "an_address_that_was_handed_on",
        ]),
    ),
    (
        "podtap-tests",
        "interfaces_new",
        Chosen::Only(&["no_packet_is_lost_or_doubled", "an_index_used_again", "pods_made_at_once"]),
    ),
    ("podtap-tests", "limits", Chosen::Only(&["a_limit_of_packets", "direction_and_snap_length"])),
    ("podtap-tests", "requests", Chosen::Only(&["two_captures_of_one_pod"])),
    ("podtap-tests", "restart", Chosen::Only(&["unfinished_runs_go_on"])),
];

impl Chosen {
    fn has(&self, name: &str) -> bool {
        let contains = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
        match self {
            Self::All => true,
            Self::But(parts) => !contains(parts),
            Self::Only(parts) => contains(parts),
        }
    }
}

/// One test program.
pub(super) struct Program {
    /// Package and target.
    pub(super) name: String,
    /// Where it is here.
    pub(super) path: PathBuf,
    /// Names of the tests to run.
    pub(super) tests: Vec<String>,
}

/// All that run.
pub(super) struct Programs {
    /// Test programs with at least one test.
    pub(super) tests: Vec<Program>,
    /// Programs that tests call at the very path where cargo put them.
    pub(super) called: Vec<PathBuf>,
    /// Tests that need root, but do not run on other kernels.
    pub(super) left_out: Vec<String>,
}

impl Programs {
    /// Builds the test programs and asks them for their tests.
    pub(super) fn build(name: Option<&str>) -> Result<Self> {
        let mut build = Command::new(cargo());
        build.args([
            "test",
            "--no-run",
            "--message-format=json-render-diagnostics",
            "--lib",
            "--bins",
            "--tests",
        ]);
        build.args([
            "--package",
            "capture-daemon",
            "--package",
            "capture-filter",
            "--package",
            "podtap-tests",
        ]);
        // What the compiler says goes to the terminal, what cargo has made comes here.
        let built = build.current_dir(root()).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        if !built.status.success() {
            bail!("the tests cannot be built: {}", built.status);
        }
        let messages = String::from_utf8_lossy(&built.stdout);
        let mut programs = Self { tests: Vec::new(), called: Vec::new(), left_out: Vec::new() };
        for message in messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let Some(path) = message["executable"].as_str().map(PathBuf::from) else { continue };
            if message["profile"]["test"] == true {
                programs.add(&message, path, name)?;
            } else {
                programs.called.push(path);
            }
        }
        // In the order of the table, so that what loads nothing at all is seen first.
        let place = |program: &Program| {
            TESTS.iter().position(|(package, target, _)| program.name == full_name(package, target))
        };
        programs.tests.sort_by_key(|program| place(program).unwrap_or(TESTS.len()));
        if programs.tests.is_empty() {
            bail!("no test that needs root has this in its name");
        }
        Ok(programs)
    }

    fn add(&mut self, message: &Value, path: PathBuf, name: Option<&str>) -> Result<()> {
        let package = message["package_id"].as_str().and_then(package_name).context("no package")?;
        let target = message["target"]["name"].as_str().context("no target")?;
        if target.starts_with(CLUSTER) {
            return Ok(());
        }
        let chosen =
            TESTS.iter().find(|(p, t, _)| (*p, *t) == (package, target)).map(|(_, _, chosen)| chosen);
        let (tests, left_out) = tests_of(&path)?.into_iter().partition::<Vec<_>, _>(|test| match name {
            Some(part) => test.contains(part),
            None => chosen.is_some_and(|chosen| chosen.has(test)),
        });
        if name.is_none() {
            self.left_out.extend(left_out);
        }
        if !tests.is_empty() {
            self.tests.push(Program { name: full_name(package, target), path, tests });
        }
        Ok(())
    }
}

fn full_name(package: &str, target: &str) -> String {
    format!("{package}-{target}")
}

/// The package's name in cargo's `path+file:///directory#name@version`, where the name may be the directory's.
fn package_name(id: &str) -> Option<&str> {
    let (path, version) = id.rsplit_once('#')?;
    match version.split_once('@') {
        Some((name, _)) => Some(name),
        None => path.rsplit('/').next(),
    }
}

/// The tests of a program that need root.
fn tests_of(path: &PathBuf) -> Result<Vec<String>> {
    let list = output(Command::new(path).args(["--list", "--ignored", "--format=terse"]))?;
    Ok(list.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
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
