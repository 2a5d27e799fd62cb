//! Tidy: the rules of the house that a compiler does not hold, each as a test of its own.
//!
//! Every checker is a function from text to findings, and proves beside itself that it can fail.

mod arrows;
mod documents;
mod names;
mod sizes;
mod sources;
mod unfinished;
mod words;

/// One breach of a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    /// Relative to the workspace root.
    file: String,
    /// From 1; 0 when the finding is about the file as a whole.
    line: usize,
    what: String,
}

impl Finding {
    fn new(file: &str, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

/// Fails with one line a finding, and with the reason of the rule.
#[track_caller]
fn assert_clean(findings: &[Finding], why: &str) {
    let lines: Vec<String> = findings
        .iter()
        .map(|finding| match finding.line {
            0 => format!("{}: {}", finding.file, finding.what),
            line => format!("{}:{line}: {}", finding.file, finding.what),
        })
        .collect();
    assert!(findings.is_empty(), "{} found:\n{}\nwhy: {why}", findings.len(), lines.join("\n"));
}
