//! Adding up what test programs say.

/// Passed and failed tests.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Total {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and programs that did not end as they should.
    pub(crate) failed: u64,
}

impl Total {
    /// Adds another one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// Adds a line of libtest's, `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; any other counts nothing.
    pub(crate) fn read_line(&mut self, line: &str) {
        let Some(line) = line.strip_prefix("test result: ") else { return };
        let count = |word: &str| -> u64 {
            let part = line.split(['.', ';']).map(str::trim).find_map(|part| part.strip_suffix(word));
            part.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        self.add(Self { passed: count("passed"), failed: count("failed") });
    }
}

#[cfg(test)]
mod tests {
    use super::Total;

    #[test]
    fn counts_are_read_from_libtest() {
        let mut total = Total::default();
        total.read_line("test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        total.read_line(
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.10s",
        );
        total.read_line("test 5 passed ... ok");
        assert_eq!(total, Total { passed: 14, failed: 3 });
    }
}
