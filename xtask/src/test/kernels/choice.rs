//! Which tests run on other kernels.

use anyhow::{Result, bail};

use crate::test::programs::{Program, Programs};

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
const TESTS: [(&str, Chosen); 6] = [
    ("capture-daemon-verifier", Chosen::All),
    (
        "capture-daemon-datapath",
        Chosen::But(&[
            "rate_holds",
            "under_a_flood",
            "a_full_ring_is_counted",
            "bytes::snap_length_cuts",
            "exceeds_the_largest_record",
            "a_signal_in_the_middle",
        ]),
    ),
    ("capture-daemon-filter", Chosen::All),
    ("podtap-tests-podtap_tests", Chosen::Only(&["pods_reach_each_other"])),
    (
        "podtap-tests-agent",
        Chosen::Only(&[
            "alone::interfaces_found::a_pod_is_found_by_its_address",
            "alone::interfaces_found::an_address_that_was_handed_on",
            "alone::interfaces_found::an_interface_other_than",
            "alone::interfaces_new::an_index_used_again",
            "alone::interfaces_new::no_packet_is_lost_or_doubled",
            "alone::interfaces_new::pods_made_at_once",
            "alone::restart::unfinished_runs_go_on",
            "changes::a_capture_pauses",
            "changes::removing_the_label",
            "files::a_file_says_where",
            "interfaces::an_index_used_again",
            "interfaces::an_interface_that_appears_later",
            "interfaces::nothing_stays",
            "limits::a_limit_of_packets",
            "limits::direction_and_snap_length",
            "requests::two_captures_of_one_pod",
        ]),
    ),
    // Last: a kernel goes on freeing its programs long after its end, and everything waits for that meanwhile.
    (
        "capture-filter-kernel",
        Chosen::But(&[
            "each_expression_matches",
            "long_lists",
            "generated_expressions",
            "programs_that_no_expression",
        ]),
    ),
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

/// Tests of one program.
pub(super) struct Part<'a> {
    /// The program.
    pub(super) program: &'a Program,
    /// Names of the tests to run.
    pub(super) tests: Vec<String>,
}

/// What runs on other kernels, and what does not.
pub(super) struct Choice<'a> {
    /// In the order of the table, so that what loads nothing at all is seen first; with one test at least each.
    pub(super) parts: Vec<Part<'a>>,
    /// Tests that need root, but do not run on other kernels.
    pub(super) left_out: Vec<String>,
}

impl<'a> Choice<'a> {
    /// Those of the table, or all whose name contains `name`.
    pub(super) fn of(programs: &'a Programs, name: Option<&str>) -> Result<Self> {
        let mut choice = Self { parts: Vec::new(), left_out: Vec::new() };
        for program in programs.tests.iter().filter(|program| !program.needs_cluster()) {
            let chosen = TESTS.iter().find(|(full, _)| *full == program.name()).map(|(_, chosen)| chosen);
            let all = program.list(true, name)?;
            let (tests, left_out) = all.into_iter().partition::<Vec<_>, _>(|test| {
                name.is_some() || chosen.is_some_and(|chosen| chosen.has(test))
            });
            choice.left_out.extend(left_out);
            if !tests.is_empty() {
                choice.parts.push(Part { program, tests });
            }
        }
        if choice.parts.is_empty() {
            bail!("no test that needs root has this in its name");
        }
        let place = |part: &Part<'_>| TESTS.iter().position(|(full, _)| *full == part.program.name());
        choice.parts.sort_by_key(|part| place(part).unwrap_or(TESTS.len()));
        Ok(choice)
    }
}
