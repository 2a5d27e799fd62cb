//! How long a function and a file may be.

use proc_macro2::{Delimiter, TokenTree};

use crate::sources::{Source, for_each_level, made_up, rust_files, tokens};
use crate::{Finding, assert_clean};

/// Lines from `fn` to the closing brace, both included.
const FUNCTION_LINES_MAX: usize = 70;

const FILE_LINES_MAX: usize = 800;

#[test]
fn no_function_is_longer_than_a_screen() {
    let findings: Vec<Finding> = rust_files().iter().flat_map(long_functions).collect();
    assert_clean(&findings, "a function that fits on a screen is read at once; give its parts names");
}

#[test]
fn no_file_is_longer_than_one_subject() {
    let findings: Vec<Finding> = rust_files().iter().filter_map(long_file).collect();
    assert_clean(&findings, "a longer file holds two subjects: split it by subject, not by size");
}

/// Works on tokens, so that functions inside macro calls (`proptest!`) are measured too.
fn long_functions(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for_each_level(tokens(source), &mut |level| {
        for (index, token) in level.iter().enumerate() {
            let Some((name, last_line)) = function_at(level, index) else { continue };
            let first_line = token.span().start().line;
            let lines = last_line + 1 - first_line;
            if lines > FUNCTION_LINES_MAX {
                let what = format!("fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}");
                findings.push(Finding::new(&source.path, first_line, what));
            }
        }
    });
    findings
}

/// The function whose `fn` stands at `index`: its name and the line of its closing brace. `None`
/// for other tokens, for `fn(…)` types and for functions without a body.
fn function_at(level: &[TokenTree], index: usize) -> Option<(String, usize)> {
    let (TokenTree::Ident(keyword), TokenTree::Ident(name)) = (level.get(index)?, level.get(index + 1)?)
    else {
        return None;
    };
    if keyword != "fn" {
        return None;
    }
    for token in &level[index + 2..] {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ';' => return None,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                return Some((name.to_string(), group.span_close().end().line));
            }
            _ => {}
        }
    }
    None
}

fn long_file(source: &Source) -> Option<Finding> {
    let lines = source.text.lines().count();
    let what = format!("{lines} lines, at most {FILE_LINES_MAX}");
    (lines > FILE_LINES_MAX).then(|| Finding::new(&source.path, 0, what))
}

fn function_of(lines: usize) -> String {
    let body = "    work();\n".repeat(lines - 2);
    format!("fn long_one<T: Clone>(first: T) -> [u8; 4]\n{{\n{}}}\n", &body["    work();\n".len()..])
}

#[test]
fn a_function_is_measured_from_its_signature_to_its_brace() {
    let at_limit = made_up("a.rs", &format!("//! Head.\n\n{}", function_of(FUNCTION_LINES_MAX)));
    assert_eq!(long_functions(&at_limit), []);
    let over = made_up("a.rs", &format!("//! Head.\n\n{}", function_of(FUNCTION_LINES_MAX + 1)));
    assert_eq!(long_functions(&over), [Finding::new("a.rs", 3, "fn long_one has 71 lines, at most 70")]);
}

#[test]
fn functions_in_impls_traits_tests_and_macro_calls_are_measured() {
    let long = function_of(FUNCTION_LINES_MAX + 1);
    for around in ["impl A", "trait B", "#[cfg(test)] mod tests", "proptest!", "fn outer()"] {
        let source = made_up("a.rs", &format!("{around} {{ {long} }}"));
        let found = long_functions(&source);
        assert!(
            found.iter().any(|finding| finding.what.starts_with("fn long_one has 71")),
            "{around}: {found:?}"
        );
    }
}

#[test]
fn function_types_and_bodiless_functions_have_no_length() {
    let text = "struct A { call: fn(u8) -> u8 }\ntrait B { fn bare(&self) -> u8; }\n";
    let far = format!("{text}{}mod c {{}}\n", "\n".repeat(FUNCTION_LINES_MAX));
    assert_eq!(long_functions(&made_up("a.rs", &far)), []);
}

#[test]
fn a_file_over_the_limit_is_found() {
    assert_eq!(long_file(&made_up("a.rs", &"//\n".repeat(FILE_LINES_MAX))), None);
    let found = long_file(&made_up("a.rs", &"//\n".repeat(FILE_LINES_MAX + 1)));
    assert_eq!(found, Some(Finding::new("a.rs", 0, "801 lines, at most 800")));
}
