//! Names that say nothing: of files, folders, modules and crates.

use proc_macro2::TokenTree;

use crate::sources::{Source, for_each_level, made_up, rust_files, text_files, tokens};
use crate::{Finding, assert_clean};

const BANNED: &[&str] =
    &["common", "shared", "utils", "util", "helpers", "helper", "types", "models", "misc"];

#[test]
fn files_folders_and_crates_are_named_for_what_they_hold() {
    let findings: Vec<Finding> = text_files().iter().flat_map(banned_path).collect();
    assert_clean(
        &findings,
        "a room without a subject collects what nobody named, and then everything imports it",
    );
}

#[test]
fn inline_modules_are_named_for_what_they_hold() {
    let findings: Vec<Finding> = rust_files().iter().flat_map(banned_modules).collect();
    assert_clean(
        &findings,
        "a room without a subject collects what nobody named, and then everything imports it",
    );
}

#[test]
fn modules_lie_in_a_file_of_their_own_name() {
    let findings: Vec<Finding> = rust_files().iter().filter_map(mod_rs).collect();
    assert_clean(&findings, "ten tabs called mod.rs cannot be told apart: foo.rs beside the folder foo");
}

/// Rust sources and manifests: their folders are modules and crates.
fn banned_path(source: &Source) -> Vec<Finding> {
    if !source.path.ends_with(".rs") && !source.path.ends_with("Cargo.toml") {
        return Vec::new();
    }
    let parts = source.path.split('/').map(|part| part.trim_end_matches(".rs"));
    let banned = parts.filter(|part| is_banned(part));
    banned
        .map(|part| Finding::new(&source.path, 0, format!("`{part}` says nothing about what is in it")))
        .collect()
}

fn banned_modules(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for_each_level(tokens(source), &mut |level| {
        for pair in level.windows(2) {
            let [TokenTree::Ident(keyword), TokenTree::Ident(name)] = pair else { continue };
            if keyword == "mod" && is_banned(&name.to_string()) {
                let what = format!("`mod {name}` says nothing about what is in it");
                findings.push(Finding::new(&source.path, name.span().start().line, what));
            }
        }
    });
    findings
}

fn mod_rs(source: &Source) -> Option<Finding> {
    let named_mod = source.path.rsplit('/').next() == Some("mod.rs");
    named_mod.then(|| Finding::new(&source.path, 0, "rename it to its folder's name, beside the folder"))
}

/// A crate's folder or name may carry our prefix.
fn is_banned(name: &str) -> bool {
    let bare = name.trim_start_matches("convoy-").trim_start_matches("convoy_");
    BANNED.contains(&bare)
}

#[test]
fn a_banned_file_folder_or_crate_is_found() {
    for path in [
        "agent/src/utils.rs",
        "cloud/core/src/models/event.rs",
        "common/Cargo.toml",
        "convoy-types/src/lib.rs",
    ] {
        assert_eq!(banned_path(&made_up(path, "")).len(), 1, "{path}");
    }
    for path in ["agent/src/utility_meter.rs", "tests/data/shared/log.csv", "protocol/src/envelope.rs"] {
        assert_eq!(banned_path(&made_up(path, "")), [], "{path}");
    }
}

#[test]
fn a_banned_inline_module_is_found_and_a_word_is_not() {
    let source =
        made_up("a.rs", "mod good {\n    pub mod helpers { }\n}\nlet common = \"mod types\"; // mod util\n");
    assert_eq!(
        banned_modules(&source),
        [Finding::new("a.rs", 2, "`mod helpers` says nothing about what is in it")]
    );
}

#[test]
fn a_mod_rs_is_found() {
    assert!(mod_rs(&made_up("agent/src/spool/mod.rs", "")).is_some());
    assert!(mod_rs(&made_up("agent/src/spool.rs", "")).is_none());
}
