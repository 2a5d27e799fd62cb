//! `cargo xtask deb`: the agent as a Debian package, with its sandboxed systemd unit and an example configuration.
//!
//! The package is staged by hand and packed by `dpkg-deb`, which every Debian has: the agent is one program that needs the
//! C library and nothing else. It starts nothing before there is a configuration.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{cargo, command, run_streaming, shown, target_dir, workspace_root};

const NAME: &str = "convoy-agent";

/// Builds the agent as it ships and packs it; prints where the package is and how large.
///
/// # Errors
/// When the build fails, or this is no Debian.
pub(crate) fn run() -> Result<bool> {
    let package = build()?;
    let size = fs::metadata(&package)?.len();
    println!("{} ({:.2} MiB)", package.display(), size as f64 / f64::from(1 << 20));
    Ok(true)
}

/// The package's path.
pub(crate) fn build() -> Result<PathBuf> {
    let mut build = cargo(&["build", "--profile", "agent", "-p", NAME]);
    let status = run_streaming(&mut build, |line| println!("{line}"))?;
    ensure!(status.success(), "`{}` failed ({status})", shown(&build));
    let (target, architecture) = (target_dir()?, architecture()?);
    let version = env!("CARGO_PKG_VERSION");
    let folder = target.join("deb");
    let root = folder.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot clear {}", root.display()))?;
    }
    let package = workspace_root().join("agent/package");
    let examples = workspace_root().join("agent/examples");
    let documents = format!("usr/share/doc/{NAME}");
    install(&target.join("agent").join(NAME), &root, &format!("usr/bin/{NAME}"), 0o755)?;
    install(&package.join("convoy-agent.service"), &root, "lib/systemd/system/convoy-agent.service", 0o644)?;
    install(&package.join("sysusers.conf"), &root, "usr/lib/sysusers.d/convoy-agent.conf", 0o644)?;
    install(&examples.join("agent.toml"), &root, &format!("{documents}/examples/agent.toml"), 0o644)?;
    install(&examples.join("adapters.toml"), &root, &format!("{documents}/examples/adapters.toml"), 0o644)?;
    install(&workspace_root().join("LICENSE"), &root, &format!("{documents}/copyright"), 0o644)?;
    let kib = fs::metadata(target.join("agent").join(NAME))?.len().div_ceil(1024);
    write(&root, "DEBIAN/control", &control(version, &architecture, kib), 0o644)?;
    write(&root, "DEBIAN/postinst", POSTINST, 0o755)?;
    write(&root, "DEBIAN/prerm", PRERM, 0o755)?;
    fs::create_dir_all(root.join("etc/convoy-agent"))?;
    let file = folder.join(format!("{NAME}_{version}_{architecture}.deb"));
    let mut pack = command("dpkg-deb");
    pack.args(["--build", "--root-owner-group", "-Zxz"]).arg(&root).arg(&file);
    let status = run_streaming(&mut pack, |line| println!("{line}"))?;
    ensure!(status.success(), "`{}` failed ({status})", shown(&pack));
    Ok(file)
}

fn architecture() -> Result<String> {
    let output = command("dpkg")
        .arg("--print-architecture")
        .output()
        .context("dpkg is not here: this is no Debian")?;
    if !output.status.success() {
        bail!("dpkg --print-architecture failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn install(from: &Path, root: &Path, to: &str, mode: u32) -> Result<()> {
    let target = root.join(to);
    fs::create_dir_all(target.parent().unwrap_or(root))?;
    fs::copy(from, &target).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(fs::set_permissions(&target, fs::Permissions::from_mode(mode))?)
}

fn write(root: &Path, to: &str, text: &str, mode: u32) -> Result<()> {
    let target = root.join(to);
    fs::create_dir_all(target.parent().unwrap_or(root))?;
    fs::write(&target, text)?;
    Ok(fs::set_permissions(&target, fs::Permissions::from_mode(mode))?)
}

fn control(version: &str, architecture: &str, installed_kib: u64) -> String {
    format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: Convoy <convoy@localhost>\n\
         Installed-Size: {installed_kib}\nDepends: libc6, libgcc-s1, systemd\nSection: net\nPriority: optional\n\
         Description: Convoy's in-vehicle agent\n\
         \x20Decodes CAN, OBD-II and J1939, spools on disk, and sends over MQTT until the cloud has stored it.\n\
         \x20.\n\
         \x20Write /etc/convoy-agent/agent.toml (examples in /usr/share/doc/convoy-agent), then\n\
         \x20systemctl enable --now convoy-agent.\n"
    )
}

/// The configuration holds a VIN and names keys: its folder is for root and the agent's user alone. Nothing is started that
/// did not run before: there may be no configuration yet.
const POSTINST: &str = "#!/bin/sh\nset -e\nsystemd-sysusers convoy-agent.conf\n\
                        chgrp convoy-agent /etc/convoy-agent\nchmod 750 /etc/convoy-agent\nif [ -d /run/systemd/system ]; then\n    systemctl daemon-reload\n    \
                        systemctl try-restart convoy-agent.service\nfi\n";
const PRERM: &str = "#!/bin/sh\nset -e\nif [ \"$1\" = remove ] && [ -d /run/systemd/system ]; then\n    \
                     systemctl stop convoy-agent.service\nfi\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_has_what_debian_asks_for() {
        let text = control("1.2.3", "amd64", 4_000);
        for field in
            ["Package: convoy-agent\n", "Version: 1.2.3\n", "Architecture: amd64\n", "Installed-Size: 4000\n"]
        {
            assert!(text.contains(field), "{text}");
        }
        let description: Vec<&str> =
            text.lines().skip_while(|line| !line.starts_with("Description")).collect();
        assert!(description[1..].iter().all(|line| line.starts_with(' ')), "{text}");
    }
}
