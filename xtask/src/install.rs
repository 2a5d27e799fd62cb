//! Tools that a new machine lacks: cargo-deny from crates.io, Mosquitto and PostgreSQL from Debian.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, command, run_streaming, shown};

/// Pinned: deny.toml is written for this version, and it builds on the workspace's Rust.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Pinned, so that a new one is taken on purpose.
const CARGO_FUZZ_VERSION: &str = "0.13.1";

/// Where Debian's package puts the broker; /usr/sbin is not on every user's PATH.
pub(crate) const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// Where Debian's package puts each version of PostgreSQL.
const POSTGRES: &str = "/usr/lib/postgresql";

/// As root: updates the package lists once and installs the packages named as arguments. The
/// suites start their own servers on ports of their own, so the packages' services stay stopped:
/// policy-rc.d is how Debian asks whether a package may start one (101: it may not).
const APT_INSTALL: &str = r#"
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends "$@"
"#;

/// The cargo-deny program of the pinned version: the user's own if it is that version, else one
/// built into the target folder, where the next run finds it.
///
/// # Errors
/// When it has to be built and `cargo install` fails.
pub(crate) fn cargo_deny(target_dir: &Path) -> Result<PathBuf> {
    cargo_tool(target_dir, "cargo-deny", CARGO_DENY_VERSION)
}

/// The cargo-fuzz program, in the same way.
///
/// # Errors
/// When it has to be built and `cargo install` fails.
pub(crate) fn cargo_fuzz(target_dir: &Path) -> Result<PathBuf> {
    cargo_tool(target_dir, "cargo-fuzz", CARGO_FUZZ_VERSION)
}

fn cargo_tool(target_dir: &Path, name: &str, version: &str) -> Result<PathBuf> {
    let on_path = PathBuf::from(name);
    if version_of(&on_path).is_some_and(|found| found == version) {
        return Ok(on_path);
    }
    // The version is in the folder's name, so raising it builds a new one.
    let folder = target_dir.join(format!("tools/{name}-{version}"));
    let program = folder.join("bin").join(name);
    if program.exists() {
        return Ok(program);
    }
    println!("{name} {version} is not here: building it once into {}", folder.display());
    let started = Instant::now();
    let mut install = cargo(&["install", name, "--locked", "--version", version]);
    install.arg("--root").arg(&folder);
    // Its own release profile (fat LTO, one unit) costs minutes that a few runs a day never earn back.
    install
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        // Without it cargo builds in a temporary folder and removes it afterwards.
        .env_remove("CARGO_TARGET_DIR");
    let status = run_streaming(&mut install, |line| println!("{line}"))?;
    if !status.success() {
        bail!("`{}` failed ({status}): see its message above", shown(&install));
    }
    println!("{name} built in {:.0} s", started.elapsed().as_secs_f64());
    Ok(program)
}

/// Makes sure that the Mosquitto broker is installed.
///
/// # Errors
/// A sentence that says why it is not there and could not be installed.
pub(crate) fn mosquitto() -> Result<()> {
    if Path::new(MOSQUITTO).exists() {
        return Ok(());
    }
    apt_install("mosquitto")?;
    if !Path::new(MOSQUITTO).exists() {
        bail!("the package mosquitto is installed but brought no {MOSQUITTO}");
    }
    Ok(())
}

/// The folder with PostgreSQL's `initdb` and `pg_ctl`, which Debian keeps off the PATH; of the newest version here.
///
/// # Errors
/// A sentence that says why it is not there and could not be installed.
pub(crate) fn postgres() -> Result<PathBuf> {
    if let Some(folder) = newest_postgres(Path::new(POSTGRES)) {
        return Ok(folder);
    }
    apt_install("postgresql")?;
    newest_postgres(Path::new(POSTGRES)).with_context(|| {
        format!("the package postgresql is installed but brought no initdb below {POSTGRES}")
    })
}

fn newest_postgres(versions: &Path) -> Option<PathBuf> {
    let found = versions.read_dir().ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let folder = entry.path().join("bin");
        folder.join("initdb").exists().then_some((version, folder))
    });
    found.max().map(|(_, folder)| folder)
}

/// Installs one of Debian's packages; its service stays stopped.
fn apt_install(package: &str) -> Result<()> {
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{package} is missing and this machine has no apt-get: install it by hand");
    }
    let mut install = as_root()
        .with_context(|| format!("{package} is missing: install it with `apt-get install {package}`"))?;
    println!("{package} is missing: installing Debian's package, its service stays stopped");
    install.args(["sh", "-c", APT_INSTALL, "install", package]);
    let status = run_streaming(&mut install, |line| println!("{line}"))?;
    if !status.success() {
        bail!("`apt-get install {package}` failed ({status}): see its message above");
    }
    Ok(())
}

/// A command whose arguments run as root: directly, or through a sudo that asks for no password.
fn as_root() -> Result<Command> {
    let user = command("id").arg("-u").output().context("start `id -u`")?;
    if user.stdout.trim_ascii() == b"0" {
        return Ok(command("env"));
    }
    let mut probe = command("sudo");
    probe.args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        bail!("this user is not root and `sudo -n` is refused");
    }
    let mut sudo = command("sudo");
    sudo.arg("-n");
    Ok(sudo)
}

/// The version in `cargo-deny 0.20.2`, as `program --version` prints it; `None` if it does not run.
fn version_of(program: &Path) -> Option<String> {
    let output = command(program).arg("--version").output().ok()?;
    let printed = String::from_utf8(output.stdout).ok()?;
    printed.split_whitespace().nth(1).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_run_has_no_version() {
        assert_eq!(version_of(Path::new("convoy-no-such-program")), None);
    }

    #[test]
    fn the_version_is_the_second_word() {
        // `rustc --version` has the same form and is wherever this test can be built.
        let version = version_of(Path::new("rustc")).unwrap();
        assert_eq!(version.split('.').count(), 3, "{version}");
    }

    #[test]
    fn the_newest_postgres_is_the_largest_number() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9", "15", "16"] {
            std::fs::create_dir_all(folder.path().join(version).join("bin")).unwrap();
        }
        assert_eq!(newest_postgres(folder.path()), None);
        for version in ["9", "15"] {
            std::fs::write(folder.path().join(version).join("bin/initdb"), "").unwrap();
        }
        assert_eq!(newest_postgres(folder.path()), Some(folder.path().join("15/bin")));
    }

    #[test]
    fn the_install_script_is_valid_shell() {
        let mut shell = command("sh");
        shell.args(["-n", "-c", APT_INSTALL]);
        assert!(shell.status().unwrap().success());
    }
}
