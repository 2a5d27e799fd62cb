//! Work left behind: notes without an issue, and macros that stand for code that is not there.

use crate::sources::{
    Source, for_each_level, is_recorded_data, macro_call, made_up, rust_files, text_files, tokens,
};
use crate::{Finding, assert_clean};

/// Put together so that this file does not hold them as words.
const MARKS: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

const MACROS: &[&str] = &["todo", "unimplemented", "dbg"];

#[test]
fn notes_of_unfinished_work_name_their_issue() {
    let files = text_files();
    let ours = files.iter().filter(|file| !is_recorded_data(&file.path));
    let findings: Vec<Finding> = ours.flat_map(notes_without_issue).collect();
    assert_clean(
        &findings,
        "a note that nobody owns is never done: file an issue and write its number, (#12), behind it",
    );
}

#[test]
fn no_macro_stands_for_missing_code() {
    let findings: Vec<Finding> = rust_files().iter().flat_map(placeholder_macros).collect();
    assert_clean(
        &findings,
        "a program that panics where code is missing is not finished, and a trace is no log",
    );
}

fn notes_without_issue(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for mark in MARKS {
            let bare = line
                .match_indices(mark)
                .any(|(at, _)| is_word(line, at, mark.len()) && !names_issue(&line[at + mark.len()..]));
            if bare {
                findings.push(Finding::new(&source.path, index + 1, format!("{mark} without an issue")));
            }
        }
    }
    findings
}

/// Whether `line[at..at + length]` is a word of its own.
fn is_word(line: &str, at: usize, length: usize) -> bool {
    let part_of_word = |character: char| character.is_alphanumeric() || character == '_';
    !line[..at].ends_with(part_of_word) && !line[at + length..].starts_with(part_of_word)
}

/// Whether the text behind a mark begins with `(#12)`.
fn names_issue(rest: &str) -> bool {
    let number = rest.strip_prefix("(#").and_then(|rest| rest.split_once(')'));
    number.is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

fn placeholder_macros(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for_each_level(tokens(source), &mut |level| {
        for index in 0..level.len() {
            let Some(name) = macro_call(level, index) else { continue };
            if MACROS.iter().any(|banned| name == banned) {
                findings.push(Finding::new(
                    &source.path,
                    name.span().start().line,
                    format!("{name}! is left"),
                ));
            }
        }
    });
    findings
}

#[test]
fn a_note_without_an_issue_is_found() {
    for mark in MARKS {
        let source = made_up("a.md", &format!("fine\n// {mark}: later\n"));
        assert_eq!(
            notes_without_issue(&source),
            [Finding::new("a.md", 2, format!("{mark} without an issue"))]
        );
        let empty = made_up("a.md", &format!("{mark}(#) {mark}(later)\n"));
        assert_eq!(notes_without_issue(&empty).len(), 1);
    }
}

#[test]
fn a_note_with_an_issue_and_a_longer_word_pass() {
    for mark in MARKS {
        let source =
            made_up("a.rs", &format!("// {mark}(#12): later\nlet {mark}S = \"/tmp/a.{mark}_{mark}\";\n"));
        assert_eq!(notes_without_issue(&source), []);
    }
}

#[test]
fn a_placeholder_macro_is_found_also_inside_another_macro() {
    for name in MACROS {
        let source = made_up("a.rs", &format!("fn a() {{\n    assert!(std::{name}!(\"b\"));\n}}\n"));
        assert_eq!(placeholder_macros(&source), [Finding::new("a.rs", 2, format!("{name}! is left"))]);
    }
}

#[test]
fn the_words_of_a_placeholder_macro_are_not_the_macro() {
    let source = made_up("a.rs", "// todo!() is banned\nlet dbg = \"dbg!(x)\"; let a = dbg != todo;\n");
    assert_eq!(placeholder_macros(&source), []);
}
