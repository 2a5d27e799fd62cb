//! Counting what passed: the lines in which a test binary says how it ended.

use std::ops::AddAssign;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// One step that is not a test, counted by whether it succeeded.
    pub(crate) fn step(succeeded: bool) -> Self {
        Self { passed: u64::from(succeeded), failed: u64::from(!succeeded), skipped: 0 }
    }

    /// What the line of a test binary adds:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s`.
    /// `None` for any other line.
    pub(crate) fn from_result_line(line: &str) -> Option<Self> {
        let plain = without_colour(line);
        let (_, counts) = plain.strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split(';') {
            let Some((number, what)) = count.trim().split_once(' ') else {
                continue;
            };
            match what {
                "passed" => tally.passed = number.parse().ok()?,
                "failed" => tally.failed = number.parse().ok()?,
                "ignored" => tally.skipped = number.parse().ok()?,
                _ => {}
            }
        }
        Some(tally)
    }

    /// The closing line that is read by people and by CI.
    pub(crate) fn closing_line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }

    /// Tests that ran to an end, good or bad.
    pub(crate) fn executed(&self) -> u64 {
        self.passed + self.failed
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// `line` without the `ESC [ … m` sequences of a terminal.
fn without_colour(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_result_line_gives_its_counts() {
        let line =
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 7 filtered out; finished in 0.01s";
        let expected = Tally { passed: 12, failed: 0, skipped: 3 };
        assert_eq!(Tally::from_result_line(line), Some(expected));
    }

    #[test]
    fn a_failed_result_line_gives_its_counts() {
        let line = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s";
        let expected = Tally { passed: 1, failed: 2, skipped: 0 };
        assert_eq!(Tally::from_result_line(line), Some(expected));
    }

    #[test]
    fn a_coloured_result_line_is_read_like_a_plain_one() {
        let line =
            "test result: \u{1b}[32mok\u{1b}[0m. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        let expected = Tally { passed: 4, failed: 0, skipped: 0 };
        assert_eq!(Tally::from_result_line(line), Some(expected));
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in [
            "",
            "running 3 tests",
            "test gateway::drops ... ok",
            "say: test result: ok. 1 passed; 0 failed",
            "test result: ok",
            "test result: ok. many passed; 0 failed",
        ] {
            assert_eq!(Tally::from_result_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_closing_line_has_the_three_sums() {
        let mut sum = Tally { passed: 1, failed: 0, skipped: 2 };
        sum += Tally { passed: 4, failed: 1, skipped: 0 };
        sum += Tally::step(true);
        sum += Tally::step(false);
        assert_eq!(sum.closing_line(), "6 passed, 2 failed, 2 skipped");
        assert_eq!(sum.executed(), 8);
    }
}
