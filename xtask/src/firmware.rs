//! `cargo xtask firmware`: the images of the boards, built for microcontrollers whose target this machine's Rust lacks.

mod code;
mod size;
mod thumb;
mod toolchain;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, run_streaming, shown, target_dir, workspace_root};
use crate::static_build::executable;
use crate::table::{Align, render};
use code::Code;
use size::Size;
use toolchain::Toolchain;

/// A board crate: outside the workspace, with a lock file of its own, because its features and profile are not the host's.
struct Board {
    name: &'static str,
    /// Below the workspace root.
    folder: &'static str,
    target: &'static str,
    flash_bytes_max: u64,
    /// Statics; what is left is the stack's.
    ram_bytes_max: u64,
}

const BOARDS: &[Board] = &[Board {
    name: LM3S6965,
    folder: "firmware/board-lm3s6965",
    target: "thumbv7m-none-eabi",
    flash_bytes_max: 256 << 10,
    ram_bytes_max: 64 << 10,
}];

/// The board that QEMU emulates with interrupts and three serial lines.
const LM3S6965: &str = "lm3s6965";

/// What cargo and rustc take from the environment and the firmware must not: `cargo run` leaves the host's there.
const HOST_SETTINGS: [&str; 9] = [
    "CARGO_BUILD_",
    "CARGO_ENCODED_",
    "CARGO_INCREMENTAL",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CARGO_UNSTABLE_",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTFLAGS",
];

/// A built image.
pub(crate) struct Image {
    board: &'static Board,
    path: PathBuf,
    size: Size,
}

/// What the suite `firmware` starts.
#[derive(Debug, Clone)]
pub(crate) struct Emulation {
    /// Starts QEMU for Arm.
    pub(crate) qemu: PathBuf,
    /// The image for its board `lm3s6965evb`.
    pub(crate) lm3s6965: PathBuf,
}

/// Builds every board and prints the sizes; `false` if one does not fit.
///
/// # Errors
/// When the tools cannot be had, or an image cannot be built or can panic.
pub(crate) fn run() -> Result<bool> {
    let images = build(&toolchain::prepare()?)?;
    Ok(images.iter().all(Image::fits))
}

/// Sees to the tools that build and emulate firmware.
///
/// # Errors
/// Says why they are not to be had.
pub(crate) fn prepare() -> Result<()> {
    toolchain::prepare().map(|_| ())
}

/// Builds every board, for the suite.
///
/// # Errors
/// When the tools cannot be had, or an image cannot be built, can panic or is too large.
pub(crate) fn emulation() -> Result<Emulation> {
    let toolchain = toolchain::prepare()?;
    let images = build(&toolchain)?;
    if let Some(image) = images.iter().find(|image| !image.fits()) {
        bail!("the image of {} is larger than the board", image.board.name);
    }
    let image = images.into_iter().find(|image| image.board.name == LM3S6965);
    let image = image.with_context(|| format!("no board is {LM3S6965}"))?;
    Ok(Emulation { qemu: toolchain.qemu, lm3s6965: image.path })
}

fn build(toolchain: &Toolchain) -> Result<Vec<Image>> {
    let target_dir = target_dir()?.join("firmware");
    let mut images = Vec::new();
    for board in BOARDS {
        let started = Instant::now();
        let mut build = board.build_command(toolchain);
        build.env("CARGO_TARGET_DIR", &target_dir);
        println!("-- {}: {}", board.name, shown(&build));
        let mut built = Vec::new();
        let status = run_streaming(&mut build, |line| built.extend(executable(line)))?;
        if !status.success() {
            bail!("the image of {} was not built ({status}): see the message above", board.name);
        }
        let built = built.into_iter().find(|built| built.kind == "bin");
        let path = built.with_context(|| format!("{} holds no program", board.folder))?.path;
        let size = Size::of(&path)?;
        refuse_panics(board, &path)?;
        println!("-- {}: built in {:.1} s", board.name, started.elapsed().as_secs_f64());
        images.push(Image { board, path, size });
    }
    println!("\n{}", size_table(&images));
    Ok(images)
}

/// A dongle that panics stands still under a dashboard until somebody pulls it out: none has a way to.
fn refuse_panics(board: &Board, image: &Path) -> Result<()> {
    let bytes = std::fs::read(image).with_context(|| format!("read {}", image.display()))?;
    let code = Code::read(&bytes).with_context(|| format!("{} is no image", image.display()))?;
    let panics = code.panics();
    if !panics.is_empty() {
        bail!("the image of {} can panic, it holds\n  {}", board.name, panics.join("\n  "));
    }
    Ok(())
}

impl Board {
    fn build_command(&self, toolchain: &Toolchain) -> Command {
        let mut build = cargo(&["build", "--release", "--locked"]);
        build.args(["--message-format=json-render-diagnostics", "--target", self.target]);
        // No library for the target comes with the compiler: it is built from source, with memcpy and its like.
        build.args(["-Zbuild-std=core", "-Zbuild-std-features=compiler-builtins-mem"]);
        build.current_dir(workspace_root().join(self.folder));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_host_setting(name)) {
            build.env_remove(name);
        }
        let linker = format!("CARGO_TARGET_{}_LINKER", self.target.to_uppercase().replace('-', "_"));
        build.env(linker, &toolchain.linker).env("RUSTC", &toolchain.rustc);
        // Debian's compiler is a stable one, and building the library is an unstable feature.
        build.env("RUSTC_BOOTSTRAP", "1");
        build
    }
}

fn is_host_setting(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| HOST_SETTINGS.iter().any(|setting| name.starts_with(setting)))
}

impl Image {
    fn fits(&self) -> bool {
        self.size.flash_bytes <= self.board.flash_bytes_max && self.size.ram_bytes <= self.board.ram_bytes_max
    }
}

fn size_table(images: &[Image]) -> String {
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|Image { board, size, .. }| {
            vec![
                board.name.to_owned(),
                size.flash_bytes.to_string(),
                board.flash_bytes_max.to_string(),
                size.ram_bytes.to_string(),
                board.ram_bytes_max.to_string(),
            ]
        })
        .collect();
    let header = [
        ("board", Align::Left),
        ("flash, bytes", Align::Right),
        ("of", Align::Right),
        ("RAM, bytes", Align::Right),
        ("of", Align::Right),
    ];
    render(&header, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_host_do_not_reach_the_firmware_and_those_of_the_person_do() {
        for name in ["RUSTC", "RUSTC_WRAPPER", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "RUSTFLAGS"] {
            assert!(is_host_setting(OsStr::new(name)), "{name}");
        }
        for name in ["CARGO_HOME", "RUSTUP_TOOLCHAIN", "RUST_BACKTRACE", "PATH", "CARGO_NET_OFFLINE"] {
            assert!(!is_host_setting(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn every_board_lies_outside_the_workspace_with_its_own_lock_file() {
        let manifest = std::fs::read_to_string(workspace_root().join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let excluded = manifest["workspace"]["exclude"].as_array().unwrap();
        for board in BOARDS {
            assert!(excluded.iter().any(|folder| folder.as_str() == Some(board.folder)), "{}", board.name);
            assert!(workspace_root().join(board.folder).join("Cargo.lock").exists(), "{}", board.name);
        }
    }

    #[test]
    fn an_image_over_either_memory_does_not_fit() {
        let image = |flash_bytes, ram_bytes| Image {
            board: &BOARDS[0],
            path: PathBuf::new(),
            size: Size { flash_bytes, ram_bytes },
        };
        assert!(image(262_144, 65_536).fits());
        assert!(!image(262_145, 0).fits());
        assert!(!image(0, 65_537).fits());
    }
}
