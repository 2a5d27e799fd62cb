//! Child processes: started in the workspace root, with an environment in which no build can fetch
//! a toolchain.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Nothing listens here: a build that asks for another toolchain fails at once instead of
/// downloading one.
const RUSTUP_DIST_SERVER: &str = "http://127.0.0.1:9";

/// The folder of the workspace's Cargo.toml.
pub(crate) fn workspace_root() -> &'static Path {
    let manifest_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest_dir.parent().unwrap_or(manifest_dir)
}

/// `program`, ready to start in the workspace root without a terminal to ask questions on.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace_root()).env("RUSTUP_DIST_SERVER", RUSTUP_DIST_SERVER).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(describes_this_package) {
            command.env_remove(name);
        }
    }
    command
}

/// `cargo` with `arguments`.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = command("cargo");
    cargo.args(arguments);
    cargo
}

/// Cargo's target folder: honours CARGO_TARGET_DIR and the cargo configuration.
///
/// # Errors
/// When `cargo metadata` fails or prints no target folder.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let output = cargo(&["metadata", "--format-version", "1", "--no-deps"])
        .stderr(Stdio::inherit())
        .output()
        .context("start `cargo metadata` to find the target folder")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed ({}): see its message above", output.status);
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).context("read the output of `cargo metadata`")?;
    let folder = metadata["target_directory"].as_str();
    Ok(PathBuf::from(folder.context("`cargo metadata` names no target_directory")?))
}

/// Runs `command` to its end and hands each line of its standard output to `on_line` as it comes.
/// Standard error goes straight to ours.
///
/// # Errors
/// When the program cannot be started or its output cannot be read.
pub(crate) fn run_streaming(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<ExitStatus> {
    let shown = shown(command);
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start `{shown}`"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.with_context(|| format!("read the output of `{shown}`"))?;
            on_line(String::from_utf8_lossy(&line).trim_end_matches('\r'));
        }
    }
    child.wait().with_context(|| format!("wait for `{shown}`"))
}

/// The command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

/// `cargo run` describes xtask itself in these variables. Build scripts that watch them (ring's
/// does) would run again each time a build is started by hand and by xtask in turn.
fn describes_this_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_")
        || name.starts_with("CARGO_MANIFEST_")
        || ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_variables_are_kept_from_children_and_settings_are_passed_on() {
        assert!(describes_this_package("CARGO_PKG_NAME"));
        assert!(describes_this_package("CARGO_MANIFEST_DIR"));
        assert!(!describes_this_package("CARGO_TARGET_DIR"));
        assert!(!describes_this_package("CARGO_HOME"));
    }

    #[test]
    fn lines_arrive_in_order_and_the_exit_code_is_kept() {
        let mut lines = Vec::new();
        let mut shell = command("sh");
        shell.args(["-c", "echo one; printf two; exit 3"]);
        let status = run_streaming(&mut shell, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = run_streaming(&mut command("convoy-no-such-program"), |_| {}).unwrap_err();
        assert_eq!(error.to_string(), "start `convoy-no-such-program`");
    }

    #[test]
    fn children_cannot_reach_a_toolchain_server() {
        let mut lines = Vec::new();
        let mut shell = command("sh");
        shell.args(["-c", "echo $RUSTUP_DIST_SERVER"]);
        run_streaming(&mut shell, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["http://127.0.0.1:9"]);
    }
}
