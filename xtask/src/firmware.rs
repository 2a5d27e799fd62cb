//! `cargo xtask firmware`: the images of the boards, built for microcontrollers whose target this machine's Rust lacks.

mod bench;
mod code;
mod release;
mod size;
mod stack;
mod thumb;
mod toolchain;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use convoy_protocol::link::FirmwareVersion;

use crate::command::{cargo, run_streaming, shown, target_dir, workspace_root};
use crate::static_build::executable;
use crate::table::{Align, render};
pub(crate) use bench::measure;
use code::Code;
use release::Signer;
use size::Size;
use toolchain::Toolchain;

/// A board crate: outside the workspace, with a lock file of its own, because its features and profile are not the host's.
struct Board {
    name: &'static str,
    /// Below the workspace root.
    folder: &'static str,
    target: &'static str,
    /// Of its interrupts: so many may be on the stack at once.
    priorities: u64,
    parts: &'static [Part],
}

/// A program of a board.
struct Part {
    /// In tables and file names.
    name: &'static str,
    /// The crate's program.
    program: &'static str,
    /// What the crate's build script links it for.
    place: &'static str,
    /// What it may take, less than the chip has: the dongle's logic is to fit the smallest ones with two CAN buses.
    flash_bytes_max: u64,
    /// Variables and stack.
    ram_bytes_max: u64,
    /// There are panics in it that nobody could prove away, and its handler has the watchdog start it anew.
    may_panic: bool,
}

const BOARDS: &[Board] = &[
    Board {
        name: LM3S6965,
        folder: "firmware/board-lm3s6965",
        target: "thumbv7m-none-eabi",
        priorities: 1,
        parts: &[BOOT, SLOT_A, SLOT_B],
    },
    Board { name: "stm32f405", parts: &[BXCAN_BOOT, BXCAN_A, BXCAN_B], ..STM32F4 },
    Board { name: "stm32f405-mcp2515", parts: &[MCP2515_BOOT, MCP2515_A, MCP2515_B], ..STM32F4 },
];

/// With the chip's own CAN controller, or with one on SPI.
const STM32F4: Board = Board {
    name: "",
    folder: "firmware/board-stm32f4",
    target: "thumbv7em-none-eabihf",
    // CAN, and everything else.
    priorities: 2,
    parts: &[],
};

/// The library that looks at signatures indexes tables by what it computes.
const BOOT: Part = Part {
    name: "boot",
    program: "boot",
    place: "boot",
    flash_bytes_max: 32 << 10,
    ram_bytes_max: 0x37C0,
    may_panic: true,
};
const SLOT_A: Part = Part {
    name: "a",
    program: "dongle",
    place: "a",
    // The slots take the rest of this chip's memory; 32 KiB and 16 KiB are the goal anywhere.
    flash_bytes_max: 25_088,
    ram_bytes_max: 0x37C0,
    may_panic: false,
};
const SLOT_B: Part = Part { name: "b", place: "b", ..SLOT_A };

const BXCAN_BOOT: Part = Part { program: "boot-stm32f405", ram_bytes_max: 16 << 10, ..BOOT };
const BXCAN_A: Part = Part {
    program: "board-stm32f405",
    // Of the image alone: the slots have 128 KiB, and this is the goal.
    flash_bytes_max: 32 << 10,
    ram_bytes_max: 16 << 10,
    ..SLOT_A
};
const BXCAN_B: Part = Part { place: "b", name: "b", ..BXCAN_A };

const MCP2515_BOOT: Part = Part { program: "boot-stm32f405-mcp2515", ..BXCAN_BOOT };
const MCP2515_A: Part = Part { program: "board-stm32f405-mcp2515", ..BXCAN_A };
const MCP2515_B: Part = Part { place: "b", name: "b", ..MCP2515_A };

/// Of firmware for tests.
const VERSION_DEFAULT: FirmwareVersion = (0, 1, 0);

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

/// How the firmware is built.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// The key that signs: a file with 64 hexadecimal digits, the seed of an Ed25519 key (`openssl rand -hex 32`).
    ///
    /// Without it, one that is made up for this machine.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The version of the firmware, 0.1.0 without it: a dongle takes no older one than it has.
    #[arg(long, value_name = "MAJOR.MINOR.PATCH", value_parser = release::version)]
    version: Option<FirmwareVersion>,
}

/// A built image.
pub(crate) struct Image {
    board: &'static Board,
    part: &'static Part,
    path: PathBuf,
    size: Size,
    /// At worst.
    stack_bytes: u64,
}

/// What the suite `firmware` starts.
#[derive(Debug, Clone)]
pub(crate) struct Emulation {
    /// Starts QEMU for Arm.
    qemu: PathBuf,
    /// What goes onto QEMU's board `lm3s6965evb`.
    lm3s6965: PathBuf,
    /// What signed it.
    key: PathBuf,
}

impl Emulation {
    /// What tells the suite of it.
    pub(crate) fn variables(self) -> [(&'static str, PathBuf); 3] {
        [
            ("CONVOY_QEMU_ARM", self.qemu),
            ("CONVOY_FIRMWARE_LM3S6965", self.lm3s6965),
            ("CONVOY_FIRMWARE_KEY", self.key),
        ]
    }
}

/// Builds every board and prints the sizes; `false` if one does not fit.
///
/// # Errors
/// When the tools cannot be had, or an image cannot be built or can panic.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let (images, _) = build(&toolchain::prepare()?, options)?;
    println!("{}", size_table(&images));
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
    built().map(|(_, emulation)| emulation)
}

/// Images that fit, and what starts them.
fn built() -> Result<(Vec<Image>, Emulation)> {
    let toolchain = toolchain::prepare()?;
    let (images, signer) = build(&toolchain, &Options::default())?;
    eprintln!("{}", size_table(&images));
    if let Some(image) = images.iter().find(|image| !image.fits()) {
        bail!("{} of {} takes more than it may, see above", image.part.name, image.board.name);
    }
    let lm3s6965 = folder()?.join(LM3S6965);
    Ok((images, Emulation { qemu: toolchain.qemu, lm3s6965, key: signer.path().to_owned() }))
}

/// Where all of it is.
fn folder() -> Result<PathBuf> {
    Ok(target_dir()?.join("firmware"))
}

/// What it does goes to standard error: a benchmark's standard output holds numbers alone.
fn build(toolchain: &Toolchain, options: &Options) -> Result<(Vec<Image>, Signer)> {
    let folder = folder()?;
    let signer = match &options.key {
        Some(path) => Signer::open(path)?,
        None => Signer::of_this_machine(&folder)?,
    };
    let mut images = Vec::new();
    for board in BOARDS {
        let files = folder.join(board.name);
        std::fs::create_dir_all(&files).with_context(|| format!("make {}", files.display()))?;
        let of_board = images.len();
        for part in board.parts {
            let image = board.build(part, toolchain, &signer.public_key(), &files);
            images.push(image.with_context(|| format!("{} of {}", part.name, board.name))?);
        }
        let of_place = |place| images.iter().skip(of_board).find(|image: &&Image| image.part.place == place);
        if let (Some(a), Some(b)) = (of_place(SLOT_A.place), of_place(SLOT_B.place)) {
            let version = options.version.unwrap_or(VERSION_DEFAULT);
            release::write(&files, board.name, version, &signer, [&a.path, &b.path])?;
        }
    }
    Ok((images, signer))
}

impl Board {
    /// Builds a part and keeps it in `files`: the slots' programs have one name.
    fn build(
        &'static self,
        part: &'static Part,
        toolchain: &Toolchain,
        public_key: &str,
        files: &Path,
    ) -> Result<Image> {
        let started = Instant::now();
        let mut build = self.build_command(part, toolchain);
        build.env("CARGO_TARGET_DIR", folder()?);
        build.env("CONVOY_PLACE", part.place).env("CONVOY_FIRMWARE_KEY", public_key);
        eprintln!("-- {} {}: {}", self.name, part.name, shown(&build));
        let mut built = Vec::new();
        let status = run_streaming(&mut build, |line| built.extend(executable(line)))?;
        ensure!(status.success(), "it was not built ({status}): see the message above");
        let built = built.into_iter().find(|built| built.kind == "bin" && built.name == part.program);
        let built = built.with_context(|| format!("{} holds no {}", self.folder, part.program))?.path;
        let path = files.join(format!("{}.elf", part.name));
        std::fs::copy(&built, &path).with_context(|| format!("copy it to {}", path.display()))?;
        eprintln!("-- {} {}: built in {:.1} s", self.name, part.name, started.elapsed().as_secs_f64());
        Image::read(self, part, path)
    }

    fn build_command(&self, part: &Part, toolchain: &Toolchain) -> Command {
        let mut build = cargo(&["build", "--release", "--locked", "--bin", part.program]);
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
        // How much stack each function takes, in a section that is not loaded.
        build.env("RUSTFLAGS", "-Zemit-stack-sizes");
        build
    }
}

fn is_host_setting(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| HOST_SETTINGS.iter().any(|setting| name.starts_with(setting)))
}

impl Image {
    /// # Errors
    /// When it can panic, or nobody knows how much stack it takes.
    fn read(board: &'static Board, part: &'static Part, path: PathBuf) -> Result<Self> {
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let size = Size::read(&bytes)?;
        let code = Code::read(&bytes)?;
        // A dongle that panics stands still under a dashboard until somebody pulls it out.
        let panics = if part.may_panic { Vec::new() } else { code.panics() };
        ensure!(panics.is_empty(), "it can panic, since it holds\n  {}", panics.join("\n  "));
        let stack_bytes =
            stack::worst_case(&bytes, &code, board.priorities).context("how much stack it takes")?;
        Ok(Self { board, part, path, size, stack_bytes })
    }

    /// Variables and stack.
    fn ram_bytes(&self) -> u64 {
        self.size.static_bytes + self.stack_bytes
    }

    fn fits(&self) -> bool {
        self.size.flash_bytes <= self.part.flash_bytes_max && self.ram_bytes() <= self.part.ram_bytes_max
    }
}

fn size_table(images: &[Image]) -> String {
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|image| {
            let numbers = [
                image.size.flash_bytes,
                image.part.flash_bytes_max,
                image.size.static_bytes,
                image.stack_bytes,
                image.ram_bytes(),
                image.part.ram_bytes_max,
            ];
            let name = std::iter::once(format!("{} {}", image.board.name, image.part.name));
            name.chain(numbers.iter().map(u64::to_string)).collect()
        })
        .collect();
    let header = [
        ("program", Align::Left),
        ("flash, bytes", Align::Right),
        ("of", Align::Right),
        ("variables, bytes", Align::Right),
        ("stack, bytes", Align::Right),
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

    /// The stack that is counted holds one exception of each priority.
    #[test]
    fn a_board_sets_priorities_as_it_says() {
        for board in BOARDS {
            let sources = workspace_root().join(board.folder).join("src");
            let folders = [sources.clone(), sources.join("bin")];
            let files = folders
                .iter()
                .flat_map(|folder| folder.read_dir().unwrap())
                .map(|entry| entry.unwrap().path());
            let set = files
                .filter(|path| path.is_file())
                .map(|path| std::fs::read_to_string(path).unwrap().matches("set_priority").count() as u64);
            assert_eq!(set.sum::<u64>() + 1, board.priorities, "{}", board.name);
        }
    }

    #[test]
    fn an_image_over_either_memory_does_not_fit() {
        let image = |flash_bytes, static_bytes, stack_bytes| Image {
            board: &BOARDS[0],
            part: &SLOT_A,
            path: PathBuf::new(),
            size: Size { flash_bytes, static_bytes },
            stack_bytes,
        };
        assert!(image(25_088, 10_000, 4_272).fits());
        assert!(!image(25_089, 0, 0).fits());
        assert!(!image(0, 10_000, 4_273).fits());
    }
}
