//! `cargo xtask package`: the zip with the one `bootstrap` that all functions share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{cargo, command, run_streaming, shown, target_dir};

/// A larger zip costs every cold start: it is fetched before the process can start.
const ZIP_BYTES_MAX: u64 = 4 << 20;

/// Cargo's profile, in the workspace's Cargo.toml.
const PROFILE: &str = "lambda";
const PROGRAM: &str = "bootstrap";
const BRIDGE: &str = "convoy-bridge";

/// Run with the program's path and the zip's.
const MAKE_ZIP: &str = include_str!("make_zip.py");

/// Programs of the deployment.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The zip with the functions.
    pub(crate) zip: PathBuf,
    /// The folder with the bridge.
    pub(crate) folder: PathBuf,
}

/// Builds and zips; prints both sizes.
///
/// # Errors
/// When the build fails, or the zip is too large.
pub(crate) fn run() -> Result<PathBuf> {
    build(&[PROGRAM]).map(|built| built.zip)
}

/// As [`run`], with the bridge.
///
/// # Errors
/// As [`run`].
pub(crate) fn with_bridge() -> Result<Built> {
    build(&[PROGRAM, BRIDGE])
}

fn build(programs: &[&str]) -> Result<Built> {
    let mut build = cargo(&["build", "--profile", PROFILE, "-p", "convoy-aws"]);
    build.args(programs.iter().flat_map(|program| ["--bin", program]));
    let status = run_streaming(&mut build, |line| println!("{line}"))?;
    if !status.success() {
        bail!("`{}` failed ({status}): see its message above", shown(&build));
    }
    let folder = target_dir()?.join(PROFILE);
    let (program, zip) = (folder.join(PROGRAM), folder.join("bootstrap.zip"));
    make_zip(&program, &zip)?;
    let (unpacked, zipped) = (bytes_of(&program)?, bytes_of(&zip)?);
    println!("{}: {zipped} bytes, {PROGRAM} alone {unpacked}", zip.display());
    ensure!(
        zipped <= ZIP_BYTES_MAX,
        "the zip has {zipped} bytes, at most {ZIP_BYTES_MAX} are wanted: see what grew with cargo-bloat"
    );
    Ok(Built { zip, folder })
}

/// What Lambda calls the processor that this machine builds for.
pub(crate) fn architecture() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "arm64" } else { "x86_64" }
}

fn make_zip(program: &Path, zip: &Path) -> Result<()> {
    let mut python = command("python3");
    python.args(["-c", MAKE_ZIP]).args([program, zip]);
    let status = python.status().context("start python3, which makes the zip")?;
    ensure!(status.success(), "{} could not be zipped ({status}): see the message above", program.display());
    Ok(())
}

fn bytes_of(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_zip_and_stays_executable() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("program"), "#!/bin/sh\n".repeat(1_000)).unwrap();
        make_zip(&path("program"), &path("one.zip")).unwrap();
        std::fs::write(path("program"), "#!/bin/sh\n".repeat(1_000)).unwrap();
        make_zip(&path("program"), &path("two.zip")).unwrap();
        let (one, two) = (std::fs::read(path("one.zip")).unwrap(), std::fs::read(path("two.zip")).unwrap());
        assert_eq!(one, two);
        assert!(one.len() < 1_000, "{}", one.len());
        // The mode is in the upper half of the external attributes, 38 bytes into the directory's entry.
        let entry = one.windows(4).position(|bytes| bytes == b"PK\x01\x02").unwrap();
        assert_eq!(one[entry + 40..entry + 42], 0o100_755_u16.to_le_bytes());
    }
}
