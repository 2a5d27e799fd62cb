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
    Ok(Toolchain { rustc, linker: linker()?, qemu })
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
