//! `cargo xtask package`: the zip with the one `bootstrap` that all functions share.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use crate::command::{cargo, command, run_streaming, shown, target_dir};

/// A larger zip costs every cold start: it is fetched before the process can start.
const ZIP_BYTES_MAX: u64 = 4 << 20;

/// Cargo's profile, in the workspace's Cargo.toml.
const PROFILE: &str = "lambda";
const PROGRAM: &str = "bootstrap";
const BRIDGE: &str = "convoy-bridge";

/// A panic ends the process, so nothing is ever unwound, and tables for it would be a tenth of the program.
const NO_UNWINDING: [&str; 2] = ["-C", "force-unwind-tables=no"];
/// The linker that rustc brings along for this processor can do it.
const FOLD_EQUAL_FUNCTIONS: &[&str] =
    if cfg!(target_arch = "x86_64") { &["-C", "link-arg=-Wl,--icf=all,-O2"] } else { &[] };

/// Three rounds of Zopfli, which makes the zip 3 % smaller than the best that others do, in half a minute. The levels of
/// the crate `zip` below it are those of zlib.
const ZOPFLI_LEVEL: i64 = 9 + 3;

/// Programs of the deployment.
#[derive(Debug, Clone)]
pub(crate) struct Built {
    /// The zip with the functions.
    pub(crate) zip: PathBuf,
    /// The program in it.
    pub(crate) program: PathBuf,
    /// The folder with the bridge.
    pub(crate) folder: PathBuf,
}

/// Builds and zips; prints both sizes.
///
/// # Errors
/// When the build fails, or the zip is too large.
pub(crate) fn run() -> Result<Built> {
    functions()
}

/// As [`run`], with the bridge.
///
/// # Errors
/// As [`run`].
pub(crate) fn with_bridge() -> Result<Built> {
    build(BRIDGE, &[])?;
    functions()
}

fn build(program: &str, link_arguments: &[&str]) -> Result<()> {
    let mut build = cargo(&["rustc", "--profile", PROFILE, "-p", "convoy-aws", "--bin", program, "--"]);
    build.args(link_arguments).env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", rust_flags());
    let status = run_streaming(&mut build, |line| eprintln!("{line}"))?;
    if !status.success() {
        bail!("`{}` failed ({status}): see its message above", shown(&build));
    }
    Ok(())
}

/// As Cargo wants them, so that they may hold spaces.
fn rust_flags() -> String {
    let mut flags = NO_UNWINDING.map(str::to_owned).to_vec();
    // Where a panic is, it says by the path of its source: the same on every machine, and shorter.
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    if let Some(home) = home.or_else(|| Some(std::env::home_dir()?.join(".cargo"))) {
        flags.push(format!("--remap-path-prefix={}=", home.join("registry/src").display()));
    }
    flags.join("\x1f")
}

fn functions() -> Result<Built> {
    build(PROGRAM, FOLD_EQUAL_FUNCTIONS)?;
    let folder = target_dir()?.join(PROFILE);
    let (program, zip) = (folder.join(PROGRAM), folder.join("bootstrap.zip"));
    let lean = folder.join("lean");
    std::fs::create_dir_all(&lean).with_context(|| format!("create {}", lean.display()))?;
    let lean = lean.join(PROGRAM);
    strip_unwinding(&program, &lean)?;
    make_zip(&lean, &zip)?;
    let (unpacked, zipped) = (bytes_of(&lean)?, bytes_of(&zip)?);
    eprintln!("{}: {zipped} bytes, {PROGRAM} alone {unpacked}", zip.display());
    ensure!(
        zipped <= ZIP_BYTES_MAX,
        "the zip has {zipped} bytes, at most {ZIP_BYTES_MAX} are wanted: see what grew with cargo-bloat"
    );
    Ok(Built { zip, program: lean, folder })
}

/// Leaves out the unwinding tables of the standard library and of C, which come compiled with them.
fn strip_unwinding(program: &Path, lean: &Path) -> Result<()> {
    let mut strip = command("strip");
    strip.args(["--remove-section=.eh_frame", "--remove-section=.eh_frame_hdr", "-o"]).args([lean, program]);
    let status = strip.status().context("start strip, which comes with the C compiler")?;
    ensure!(
        status.success(),
        "{} could not be stripped ({status}): see the message above",
        program.display()
    );
    Ok(())
}

/// What Lambda calls the processor that this machine builds for.
pub(crate) fn architecture() -> &'static str {
    if std::env::consts::ARCH == "aarch64" { "arm64" } else { "x86_64" }
}

/// Puts a program into a zip that is the same, byte by byte, for the same program: Lambda sees an update by its hash.
fn make_zip(program: &Path, zip: &Path) -> Result<()> {
    let content = std::fs::read(program).with_context(|| format!("read {}", program.display()))?;
    let file = File::create(zip).with_context(|| format!("create {}", zip.display()))?;
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(ZOPFLI_LEVEL))
        .with_zopfli_buffer(Some(content.len()))
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    let mut writer = ZipWriter::new(file);
    let written = writer
        .start_file(PROGRAM, options)
        .and_then(|()| Ok(writer.write_all(&content)?))
        .and_then(|()| writer.finish());
    written.with_context(|| format!("write {}", zip.display()))?;
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
