//! What the rules look at: the files that git tracks or would track.

use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{Delimiter, Ident, Spacing, TokenStream, TokenTree};

/// A text file of the repository.
pub(crate) struct Source {
    /// Relative to the workspace root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn workspace_root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().expect("the package lies one folder below the workspace root")
}

/// Every text file that is tracked, or new and not ignored.
pub(crate) fn text_files() -> Vec<Source> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "-c", "-o", "--exclude-standard"])
        .current_dir(workspace_root())
        .output()
        .expect("start git: tidy asks it which files belong to the repository");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git ls-files failed: {problem}");
    let listed = String::from_utf8(output.stdout).expect("paths in the repository are UTF-8");
    let paths = listed.split('\0').filter(|path| !path.is_empty());
    let files: Vec<Source> = paths.filter_map(read).collect();
    assert!(
        files.iter().any(|file| file.path == "Cargo.toml"),
        "git lists no Cargo.toml: not the workspace root"
    );
    files
}

pub(crate) fn rust_files() -> Vec<Source> {
    text_files().into_iter().filter(|file| is_rust(&file.path)).collect()
}

/// The tokens of a Rust file, and the tree they form.
pub(crate) fn tokens(source: &Source) -> TokenStream {
    let read = source.text.parse::<TokenStream>();
    read.unwrap_or_else(|error| panic!("{}: not readable as Rust: {error}", source.path))
}

pub(crate) fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

/// Recorded logs and goldens: other people's text, which our rules do not judge.
pub(crate) fn is_recorded_data(path: &str) -> bool {
    path.starts_with("tests/data/")
}

/// Calls `visit` with each list of neighbouring tokens, outermost first.
pub(crate) fn for_each_level(tokens: TokenStream, visit: &mut impl FnMut(&[TokenTree])) {
    let level: Vec<TokenTree> = tokens.into_iter().collect();
    visit(&level);
    for token in level {
        if let TokenTree::Group(group) = token {
            for_each_level(group.stream(), visit);
        }
    }
}

/// The macro call that begins at `index`: its name, without the path before it.
pub(crate) fn macro_call(level: &[TokenTree], index: usize) -> Option<&Ident> {
    match level.get(index..index + 3)? {
        [TokenTree::Ident(name), TokenTree::Punct(bang), TokenTree::Group(group)]
            if bang.as_char() == '!'
                && bang.spacing() == Spacing::Alone
                && group.delimiter() != Delimiter::None =>
        {
            Some(name)
        }
        _ => None,
    }
}

/// `None` for a binary file, and for one that is in git's index but no longer on disk.
fn read(path: &str) -> Option<Source> {
    let full: PathBuf = workspace_root().join(path);
    let text = String::from_utf8(std::fs::read(full).ok()?).ok()?;
    (!text.contains('\0')).then(|| Source { path: path.to_owned(), text })
}

/// A file made up for a test.
pub(crate) fn made_up(path: &str, text: &str) -> Source {
    Source { path: path.to_owned(), text: text.to_owned() }
}
