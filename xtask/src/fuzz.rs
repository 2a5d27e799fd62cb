//! `cargo xtask fuzz`: what comes from outside the agent, fed to its parsers by libFuzzer, for a while each.
//!
//! The targets are those of `fuzz/`, built by cargo-fuzz without a sanitizer, which would need a nightly compiler: what is
//! looked for are panics, overflows, assertions that do not hold, hangs and memory that grows, which all end a program of
//! safe Rust by themselves. What is found is kept in `fuzz/artifacts`; the seeds in `fuzz/corpus` are not added to.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::available_parallelism;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::command::{cargo, command, run_streaming, shown, target_dir, workspace_root};
use crate::install;
use crate::tally::Tally;

/// cargo-fuzz names the folder after it, also where it is the only one.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// An input takes milliseconds: longer is a hang.
const INPUT_TIMEOUT_S: u32 = 10;
const MEMORY_MIB: u32 = 2_048;
const INPUT_BYTES_MAX: u32 = 4_096;

/// The targets, by their files.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn targets() -> Result<Vec<String>> {
    let folder = workspace_root().join("fuzz/fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        targets.extend(entry?.path().file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    targets.sort();
    Ok(targets)
}

/// Builds the targets and runs each for `seconds`, as many at once as there are cores; counts each as one test.
///
/// # Errors
/// When they cannot be built or started, and for a target that there is not.
pub(crate) fn run(wanted: &[String], seconds: u64) -> Result<Tally> {
    let all = targets()?;
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        bail!("there is no fuzz target {unknown}: there are {}", all.join(", "));
    }
    let programs = build()?;
    let chosen: Vec<&String> = all.iter().filter(|name| wanted.is_empty() || wanted.contains(name)).collect();
    let mut tally = Tally::default();
    let at_once = available_parallelism().map_or(1, usize::from);
    for some in chosen.chunks(at_once) {
        println!(
            "-- {} for {seconds} s each",
            some.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" and ")
        );
        let running: Vec<Running> =
            some.iter().map(|name| Running::start(name, &programs, seconds)).collect::<Result<_>>()?;
        for one in running {
            tally += Tally::step(one.wait()?);
        }
    }
    Ok(tally)
}

fn build() -> Result<PathBuf> {
    let cargo_fuzz = install::cargo_fuzz(&target_dir()?)?;
    let folder = target_dir()?.join("fuzz");
    let mut build = command(&cargo_fuzz);
    build.args(["fuzz", "build", "--sanitizer", "none"]).env("CARGO_TARGET_DIR", &folder);
    // cargo-fuzz calls the cargo that called it.
    build.env("CARGO", cargo(&[]).get_program());
    println!("-- {}", shown(&build));
    let status = run_streaming(&mut build, |line| println!("{line}"))?;
    if !status.success() {
        bail!("`{}` failed ({status}): see its message above", shown(&build));
    }
    Ok(folder.join(TARGET).join("release"))
}

struct Running {
    name: String,
    process: Child,
    log: PathBuf,
    /// What it learns in this run, and its log.
    _dir: TempDir,
}

impl Running {
    fn start(name: &str, programs: &Path, seconds: u64) -> Result<Self> {
        let (fuzz, dir) = (workspace_root().join("fuzz"), tempfile::tempdir()?);
        let (learned, log) = (dir.path().join("corpus"), dir.path().join("log"));
        let artifacts = fuzz.join("artifacts").join(name);
        fs::create_dir_all(&learned)?;
        fs::create_dir_all(&artifacts)?;
        let mut program = command(programs.join(name));
        // The first folder is written to, the others are read.
        program.arg(&learned).arg(fuzz.join("corpus").join(name));
        program.args([
            format!("-max_total_time={seconds}"),
            format!("-timeout={INPUT_TIMEOUT_S}"),
            format!("-rss_limit_mb={MEMORY_MIB}"),
            format!("-max_len={INPUT_BYTES_MAX}"),
            format!("-artifact_prefix={}/", artifacts.display()),
        ]);
        program.stdout(Stdio::null()).stderr(fs::File::create(&log)?);
        let process = program.spawn().with_context(|| format!("cannot start {}", shown(&program)))?;
        Ok(Self { name: name.to_owned(), process, log, _dir: dir })
    }

    /// True where nothing was found.
    fn wait(mut self) -> Result<bool> {
        let status = self.process.wait()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        if status.success() {
            println!(
                "{}: {}",
                self.name,
                log.lines().rfind(|line| line.starts_with("Done")).unwrap_or("done")
            );
        } else {
            let end: Vec<&str> = log.lines().rev().take(40).collect();
            println!("{}: FOUND SOMETHING ({status})", self.name);
            end.iter().rev().for_each(|line| println!("    {line}"));
        }
        Ok(status.success())
    }
}
