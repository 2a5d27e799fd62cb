//! Tools that a new machine lacks: cargo-deny from crates.io, Mosquitto from Debian.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{cargo, command, run_streaming, shown};

/// Pinned: deny.toml is written for this version, and it builds on the workspace's Rust.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Where Debian's package puts the broker; /usr/sbin is not on every user's PATH.
const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// As root: updates the package lists once and installs the packages named as arguments. The
/// suites start their own broker on a port of their own, so the packages' services stay stopped:
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
    let on_path = PathBuf::from("cargo-deny");
    if version_of(&on_path).is_some_and(|version| version == CARGO_DENY_VERSION) {
        return Ok(on_path);
    }
    // The version is in the folder's name, so raising it builds a new one.
    let folder = target_dir.join(format!("tools/cargo-deny-{CARGO_DENY_VERSION}"));
    let program = folder.join("bin/cargo-deny");
    if program.exists() {
        return Ok(program);
    }
    println!("cargo-deny {CARGO_DENY_VERSION} is not here: building it once into {}", folder.display());
    let started = Instant::now();
    let mut install = cargo(&["install", "cargo-deny", "--locked", "--version", CARGO_DENY_VERSION]);
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
    println!("cargo-deny built in {:.0} s", started.elapsed().as_secs_f64());
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
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("{MOSQUITTO} is missing and this machine has no apt-get: install Mosquitto by hand");
    }
    let mut install =
        as_root().context("Mosquitto is missing: install it with `apt-get install mosquitto`")?;
    println!("{MOSQUITTO} is missing: installing Debian's package mosquitto, its service stays stopped");
    install.args(["sh", "-c", APT_INSTALL, "install", "mosquitto"]);
    let status = run_streaming(&mut install, |line| println!("{line}"))?;
    if !status.success() {
        bail!("`apt-get install mosquitto` failed ({status}): see its message above");
    }
    if !Path::new(MOSQUITTO).exists() {
        bail!("the package mosquitto is installed but brought no {MOSQUITTO}");
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
    fn the_install_script_is_valid_shell() {
        let mut shell = command("sh");
        shell.args(["-n", "-c", APT_INSTALL]);
        assert!(shell.status().unwrap().success());
    }
}
