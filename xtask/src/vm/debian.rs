//! Debian's packages, downloaded with all that they need and unpacked into one folder, so that this machine neither lends
//! nor gets anything: its own packages may be older, newer, or in the way.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{command, run_streaming, shown};

const PACKAGES: [&str; 5] =
    ["linux-image-amd64", "qemu-system-x86", "can-utils", "iproute2", "busybox-static"];

/// Packages from before and after Debian put `/lib` into `/usr/lib`.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const PROGRAMS: [&str; 4] = ["usr/bin", "bin", "usr/sbin", "sbin"];
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];
const LOADER: &str = "ld-linux-x86-64.so.2";

pub(super) fn recipe() -> String {
    PACKAGES.join(" ")
}

/// # Errors
/// Where there can be no such packages.
pub(super) fn available() -> Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "the virtual machine is made from Debian's packages for x86-64 Linux, which this is not"
    );
    for program in ["/usr/bin/apt-get", "/usr/bin/dpkg-deb"] {
        ensure!(
            Path::new(program).exists(),
            "the virtual machine is made from Debian's packages, and there is no {program}: run the suite on Debian"
        );
    }
    Ok(())
}

/// Downloads the packages and all that they need into `folder`; returns the files. Needs no root: lists and cache are in
/// `folder` too, so they are as new as the mirror.
pub(super) fn download(folder: &Path) -> Result<Vec<PathBuf>> {
    const HINT: &str = "it needs a mirror of Debian in /etc/apt";
    let archives = folder.join("archives");
    for partial in [archives.join("partial"), folder.join("lists/partial")] {
        std::fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    }
    let mut update = apt_get(folder);
    update.arg("update");
    run(update, HINT)?;
    let mut install = apt_get(folder);
    install.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(PACKAGES);
    run(install, HINT)?;
    let entries = archives.read_dir().with_context(|| format!("list {}", archives.display()))?;
    let paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut packages: Vec<_> =
        paths.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "deb")).collect();
    packages.sort();
    Ok(packages)
}

fn apt_get(folder: &Path) -> Command {
    let mut apt_get = command("apt-get");
    apt_get.args(["--quiet=2", "-o", "Debug::NoLocking=true", "-o", "Acquire::Languages=none"]);
    // Otherwise root becomes a user that may not write into this folder.
    apt_get.args(["-o", "APT::Sandbox::User=root"]);
    // As if nothing were installed: with the packages comes all that they need.
    apt_get.args(["-o", "Dir::State::status=/dev/null"]);
    for (key, below) in
        [("Dir::Cache", ""), ("Dir::Cache::archives", "archives"), ("Dir::State::lists", "lists")]
    {
        apt_get.arg("-o").arg(format!("{key}={}", folder.join(below).display()));
    }
    apt_get
}

/// Unpacks `packages` into the folder `root`.
pub(super) fn unpack(packages: &[PathBuf], root: &Path) -> Result<Unpacked> {
    for package in packages {
        let mut unpack = command("dpkg-deb");
        unpack.arg("--extract").args([package.as_path(), root]);
        run(unpack, "is the disk full?")?;
    }
    Ok(Unpacked::at(root.to_owned()))
}

fn run(mut command: Command, hint: &str) -> Result<()> {
    let status = run_streaming(&mut command, |line| println!("{line}"))?;
    if !status.success() {
        bail!("`{}` failed ({status}), see its message above: {hint}", shown(&command));
    }
    Ok(())
}

/// The folder with what was in the packages.
pub(super) struct Unpacked {
    root: PathBuf,
}

impl Unpacked {
    pub(super) fn at(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// An unpacked program.
    pub(super) fn program(&self, name: &str) -> Result<PathBuf> {
        self.first(&PROGRAMS, name)
    }

    /// An unpacked program, started by the unpacked loader: the program and this machine's C library may not fit.
    pub(super) fn command(&self, program: &str) -> Result<Command> {
        self.command_as(program, program)
    }

    /// As [`Self::command`], for a program that does what it is called.
    pub(super) fn command_as(&self, name: &str, program: &str) -> Result<Command> {
        self.loader(&["--argv0", name], &self.program(program)?)
    }

    /// The libraries that an unpacked program is linked with, and their loader.
    pub(super) fn libraries_of(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let mut list = self.loader(&["--list"], program)?;
        let output = list.output().with_context(|| format!("start `{}`", shown(&list)))?;
        let problem = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{}` failed: {}", shown(&list), problem.trim());
        Ok(paths_listed(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The folder with the modules of the kernel.
    pub(super) fn modules(&self) -> Result<PathBuf> {
        let folder = self.first(&MODULES, "")?;
        let kernels = folder.read_dir().with_context(|| format!("list {}", folder.display()))?;
        let mut kernels = kernels.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        match (kernels.pop(), kernels.len()) {
            (Some(kernel), 0) => Ok(kernel),
            (_, others) => bail!("{} holds {others} kernels more or less than one", folder.display()),
        }
    }

    /// The kernel with these modules.
    pub(super) fn kernel(&self, modules: &Path) -> Result<PathBuf> {
        let version = modules.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.first(&["boot"], &format!("vmlinuz-{version}"))
    }

    fn loader(&self, options: &[&str], program: &Path) -> Result<Command> {
        let mut loader = command(self.first(&LIBRARIES, LOADER)?);
        let folders: Vec<_> = LIBRARIES.iter().map(|folder| self.path(folder)).collect();
        let folders = std::env::join_paths(folders).context("a colon in the target folder's path")?;
        loader.arg("--library-path").arg(folders).args(options).arg(program);
        Ok(loader)
    }

    fn first(&self, folders: &[&str], name: &str) -> Result<PathBuf> {
        let found = folders.iter().map(|folder| self.path(folder).join(name)).find(|path| path.exists());
        found.with_context(|| {
            format!("the packages brought no {name} in {}: are they another Debian's?", folders.join(", "))
        })
    }
}

/// The paths in lines such as `libc.so.6 => /root/lib/libc.so.6 (0x00007fa06af56000)`, as the loader lists them.
fn paths_listed(list: &str) -> Vec<PathBuf> {
    let paths = list.lines().filter_map(|line| line.split_once(" => ")?.1.rsplit_once(" (0x"));
    paths.map(|(path, _)| PathBuf::from(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_the_loaders_list() {
        let list = "\tlinux-vdso.so.1 (0x00007fa06b2d6000)\n\
                    \tlibc.so.6 => /a b/lib/libc.so.6 (0x00007fa06af56000)\n\
                    \t/lib64/ld-linux-x86-64.so.2 => /a b/lib/ld-linux-x86-64.so.2 (0x00007fa06b2d8000)\n";
        let expected = ["/a b/lib/libc.so.6", "/a b/lib/ld-linux-x86-64.so.2"];
        assert_eq!(paths_listed(list), expected.map(PathBuf::from));
    }

    #[test]
    fn one_kernel_is_found_in_either_place_and_two_are_an_error() {
        for below in MODULES {
            let folder = tempfile::tempdir().unwrap();
            let unpacked = Unpacked::at(folder.path().to_owned());
            assert!(unpacked.modules().is_err());
            std::fs::create_dir_all(folder.path().join(below).join("6.1.0-1-amd64")).unwrap();
            assert_eq!(unpacked.modules().unwrap(), folder.path().join(below).join("6.1.0-1-amd64"));
            std::fs::create_dir_all(folder.path().join(below).join("6.1.0-2-amd64")).unwrap();
            assert!(unpacked.modules().is_err());
        }
    }

    #[test]
    fn what_a_package_did_not_bring_is_named() {
        let unpacked = Unpacked::at(PathBuf::from("no-such-folder"));
        let error = unpacked.command("candump").unwrap_err().to_string();
        let expected =
            "the packages brought no candump in usr/bin, bin, usr/sbin, sbin: are they another Debian's?";
        assert_eq!(error, expected);
    }
}
