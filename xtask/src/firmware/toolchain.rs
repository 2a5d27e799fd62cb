//! Debian's Rust with the sources of its library, and its QEMU for Arm: unpacked below the target folder, not installed.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::command::{command, shown, target_dir};
use crate::debian::Preparation;

/// `rustc-web` is the compiler that browsers are built with, so it follows Rust's releases; `rustc` is years behind.
const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "qemu-system-arm"];

/// Rust's own linker, which rustup has for the host: linkers know every target.
const LINKER: &str = "lib/rustlib/x86_64-unknown-linux-gnu/bin/rust-lld";

/// Below a folder with the version in its name. Of the sources only the library's are needed; these are 360 MB.
const SOURCES: &str = "usr/src";
const SOURCES_UNUSED: [&str; 2] = ["compiler", "src"];

/// The workspace's `rust-version`.
const MINOR_MIN: u32 = 95;

/// Where each is, ready to be started by its path.
pub(super) struct Toolchain {
    pub(super) rustc: PathBuf,
    pub(super) linker: PathBuf,
    pub(super) qemu: PathBuf,
}

/// The tools, prepared at the first call (a minute, 250 MB from a Debian mirror) and found by the later ones.
///
/// # Errors
/// Says which step failed.
pub(super) fn prepare() -> Result<Toolchain> {
    let folder = target_dir()?.join("tools/firmware");
    // Before anything is fetched.
    let linker = linker()?;
    let (rustc, qemu) = (folder.join("rustc"), folder.join("qemu-system-arm"));
    let preparation = Preparation {
        name: "the tools for firmware",
        packages: &PACKAGES,
        recipe: format!("starters in {} without {}", folder.display(), SOURCES_UNUSED.join(" ")),
    };
    preparation.prepare(&folder, |unpacked| {
        let option = |name: &str, below: &str| [name.to_owned(), unpacked.path(below).display().to_string()];
        remove_unused_sources(&unpacked.path(SOURCES)).context("remove what no build reads")?;
        unpacked.write_starter(&rustc, "rustc", &option("--sysroot", "usr"))?;
        unpacked.write_starter(&qemu, "qemu-system-arm", &option("-L", "usr/share/qemu"))
    })?;
    check_version(&rustc)?;
    Ok(Toolchain { rustc, linker, qemu })
}

/// Debian's compiler must be no older than what the sources ask for.
fn check_version(rustc: &Path) -> Result<()> {
    let output =
        command(rustc).arg("--version").output().with_context(|| format!("start {}", rustc.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let minor = minor_of(&text).with_context(|| format!("{text:?} is no version of rustc"))?;
    ensure!(
        minor >= MINOR_MIN,
        "Debian's rustc-web is 1.{minor}, and the firmware asks for 1.{MINOR_MIN}: is the mirror of another release?"
    );
    Ok(())
}

/// "rustc 1.96.0 (...)": 96.
fn minor_of(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

fn remove_unused_sources(sources: &Path) -> Result<()> {
    for entry in sources.read_dir().with_context(|| format!("list {}", sources.display()))? {
        let folder = entry?.path();
        for unused in SOURCES_UNUSED.map(|name| folder.join(name)).iter().filter(|path| path.is_dir()) {
            std::fs::remove_dir_all(unused).with_context(|| format!("remove {}", unused.display()))?;
        }
    }
    Ok(())
}

fn linker() -> Result<PathBuf> {
    let mut rustc = command("rustc");
    rustc.args(["--print", "sysroot"]).stderr(Stdio::inherit());
    let output = rustc.output().with_context(|| format!("start `{}`", shown(&rustc)))?;
    ensure!(output.status.success(), "`{}` failed ({}): see its message above", shown(&rustc), output.status);
    let sysroot = String::from_utf8(output.stdout).context("the path of Rust is no text")?;
    let linker = Path::new(sysroot.trim()).join(LINKER);
    ensure!(linker.exists(), "there is no {}: is this Rust from rustup?", linker.display());
    Ok(linker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_and_is_that_of_the_workspace() {
        assert_eq!(minor_of("rustc 1.96.0 (ac68faa20 2026-05-25)\n"), Some(96));
        assert_eq!(minor_of("clang 19"), None);
        let manifest = std::fs::read_to_string(crate::command::workspace_root().join("Cargo.toml")).unwrap();
        assert!(manifest.contains(&format!("rust-version = \"1.{MINOR_MIN}\"")));
    }
}
