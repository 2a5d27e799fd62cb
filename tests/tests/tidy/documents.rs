//! What documents name: files and tests that exist.

use std::collections::BTreeSet;

use crate::sources::{Source, is_rust, made_up, text_files};
use crate::{Finding, assert_clean};

/// Documents whose every name in backticks is looked up.
const DOCUMENTS: [&str; 1] = ["docs/aws.md"];

#[test]
fn every_file_and_test_that_a_document_names_exists() {
    let files = text_files();
    let documents: Vec<_> = files.iter().filter(|file| DOCUMENTS.contains(&file.path.as_str())).collect();
    assert_eq!(documents.len(), DOCUMENTS.len(), "a document was moved: name it here as it is called now");
    let findings: Vec<Finding> = documents.iter().flat_map(|document| missing(document, &files)).collect();
    assert_clean(&findings, "a reader looks there: after a renaming the document is changed too");
}

/// Names in backticks that nothing has: `folder/file.rs` is the end of a path, `file::test` a function in such a file.
fn missing(document: &Source, files: &[Source]) -> Vec<Finding> {
    let paths: BTreeSet<String> =
        files.iter().filter(|file| is_rust(&file.path)).map(|file| format!("/{}", file.path)).collect();
    let mut findings = Vec::new();
    for (index, line) in document.text.lines().enumerate() {
        for name in line.split('`').skip(1).step_by(2) {
            let is_there = if is_rust(name) {
                paths.iter().any(|path| path.ends_with(&format!("/{name}")))
            } else if let Some((module, function)) = test_name(name) {
                let (ending, call) = (format!("{module}.rs"), format!("fn {function}("));
                let of_module = |file: &&Source| file.path.rsplit('/').next() == Some(&ending);
                files.iter().filter(of_module).any(|file| file.text.contains(&call))
            } else {
                true
            };
            if !is_there {
                findings.push(Finding::new(&document.path, index + 1, format!("there is no {name}")));
            }
        }
    }
    findings
}

/// The parts of `module::function`, both in snake case.
fn test_name(name: &str) -> Option<(&str, &str)> {
    let (module, function) = name.split_once("::")?;
    let is_snake = |part: &str| {
        part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    (is_snake(module) && is_snake(function)).then_some((module, function))
}

#[test]
fn what_does_not_exist_is_found() {
    let files = [
        made_up("cloud/aws/src/kinesis.rs", "fn put() {}"),
        made_up("tests/kinesis.rs", "async fn all_arrive() {}"),
    ];
    let text =
        "`src/kinesis.rs` `kinesis::all_arrive` `AWS::Lambda` `cargo test`\n`rc/kinesis.rs` `kinesis::some`";
    let what: Vec<_> =
        missing(&made_up("docs/aws.md", text), &files).into_iter().map(|found| found.what).collect();
    assert_eq!(what, ["there is no rc/kinesis.rs", "there is no kinesis::some"]);
}
