//! Programs that run where nothing is installed: linked with their C library.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{cargo, run_streaming, shown};

/// Named, so that the flags below are not for build scripts and macros, which cannot be linked so.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const FLAGS: &str = "-C target-feature=+crt-static";

/// What was built.
pub(crate) struct Built {
    pub(crate) test: PathBuf,
    pub(crate) agent: PathBuf,
}

/// The agent and one of its test programs, in the profile that builds fastest after a change: 5 s in place of 47.
///
/// # Errors
/// When the build fails.
pub(crate) fn agent_with_test(test: &str) -> Result<Built> {
    let mut build = cargo(&["test", "--no-run", "--message-format=json-render-diagnostics"]);
    build.args(["-p", "convoy-agent", "--test", test, "--target", TARGET]);
    build.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", FLAGS);
    println!("-- RUSTFLAGS='{FLAGS}' {}", shown(&build));
    let mut built = Vec::new();
    let status = run_streaming(&mut build, |line| built.extend(executable(line)))?;
    if !status.success() {
        bail!("`{}` failed ({status}): see its message above", shown(&build));
    }
    let find = |kind: &str, name: &str| {
        let found = built.iter().find(|built| (built.kind.as_str(), built.name.as_str()) == (kind, name));
        let path = found.map(|found| found.path.clone());
        path.with_context(|| format!("`{}` built no {kind} {name}", shown(&build)))
    };
    Ok(Built { test: find("test", test)?, agent: find("bin", "convoy-agent")? })
}

/// A program that cargo built.
pub(crate) struct Executable {
    /// `bin`, `test` and so on.
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// A program that a line of cargo's JSON says was built.
pub(crate) fn executable(line: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(line).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Some(Executable {
        kind: text(&message["target"]["kind"][0])?,
        name: text(&message["target"]["name"])?,
        path: PathBuf::from(message["executable"].as_str()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_cargos_messages_and_libraries_are_not() {
        let line = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"socketcan"},"executable":"/t/socketcan-1"}"#;
        let built = executable(line).unwrap();
        assert_eq!((built.kind.as_str(), built.name.as_str()), ("test", "socketcan"));
        assert_eq!(built.path, PathBuf::from("/t/socketcan-1"));
        for line in [
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"serde"},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            "Compiling serde",
        ] {
            assert!(executable(line).is_none(), "{line}");
        }
    }
}
