//! Debian's packages, downloaded with all that they need and unpacked into one folder, so that this machine neither lends
//! nor gets anything: its own packages may be older, newer, or in the way.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{command, run_streaming, shown};

/// Written when all is prepared: what it was made from, and the packages.
const MARK: &str = "installed.txt";
/// The folder with what was in the packages.
const ROOT: &str = "root";

/// Packages from before and after Debian put `/lib` into `/usr/lib`.
const LIBRARIES: [&str; 2] = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"];
const PROGRAMS: [&str; 4] = ["usr/bin", "bin", "usr/sbin", "sbin"];
const MODULES: [&str; 2] = ["lib/modules", "usr/lib/modules"];
const LOADER: &str = "ld-linux-x86-64.so.2";

/// What is made once from packages, below the target folder.
pub(crate) struct Preparation<'a> {
    /// What it is called in messages, with its article.
    pub(crate) name: &'a str,
    pub(crate) packages: &'a [&'a str],
    /// What else decides how it is: another text, and it is made anew.
    pub(crate) recipe: String,
}

impl Preparation<'_> {
    /// The unpacked packages in `folder`, as an earlier call left them or from a mirror; `finish` makes of them what else
    /// has to be in the folder.
    ///
    /// # Errors
    /// Says which step failed: this is no x86-64 Linux with apt-get, the mirror is out of reach, or it is another Debian's.
    pub(crate) fn prepare(
        &self,
        folder: &Path,
        finish: impl FnOnce(&Unpacked) -> Result<()>,
    ) -> Result<Unpacked> {
        let unpacked = Unpacked::in_folder(folder);
        let (mark, recipe) = (folder.join(MARK), format!("{}\n{}\n", self.packages.join(" "), self.recipe));
        if std::fs::read_to_string(&mark).is_ok_and(|made_from| made_from.starts_with(&recipe)) {
            return Ok(unpacked);
        }
        self.available()?;
        println!("preparing {} in {}, once", self.name, folder.display());
        let started = Instant::now();
        // What an interrupted or older preparation left behind would be mixed with this one.
        if folder.exists() {
            std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        let downloads = folder.join("apt");
        let packages = download(&downloads, self.packages)
            .with_context(|| format!("download the packages of {}", self.name))?;
        unpacked.unpack(&packages).with_context(|| format!("unpack {}", self.name))?;
        finish(&unpacked)?;
        std::fs::remove_dir_all(&downloads).with_context(|| format!("remove {}", downloads.display()))?;
        let names: Vec<_> = packages.iter().filter_map(|package| package.file_stem()?.to_str()).collect();
        std::fs::write(&mark, recipe + &names.join("\n"))
            .with_context(|| format!("write {}", mark.display()))?;
        println!("prepared from {} packages in {:.0} s", names.len(), started.elapsed().as_secs_f64());
        Ok(unpacked)
    }

    fn available(&self) -> Result<()> {
        ensure!(
            cfg!(all(target_os = "linux", target_arch = "x86_64")),
            "{} is made from Debian's packages for x86-64 Linux, which this is not",
            self.name
        );
        for program in ["/usr/bin/apt-get", "/usr/bin/dpkg-deb"] {
            ensure!(
                Path::new(program).exists(),
                "{} is made from Debian's packages, and there is no {program}: run it on Debian",
                self.name
            );
        }
        Ok(())
    }
}

/// Downloads `wanted` and all that they need into `folder`; returns the files. Needs no root: lists and cache are in
/// `folder` too, so they are as new as the mirror.
fn download(folder: &Path, wanted: &[&str]) -> Result<Vec<PathBuf>> {
    const HINT: &str = "it needs a mirror of Debian in /etc/apt";
    let archives = folder.join("archives");
    for partial in [archives.join("partial"), folder.join("lists/partial")] {
        std::fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    }
    let mut update = apt_get(folder);
    update.arg("update");
    run(update, HINT)?;
    let mut install = apt_get(folder);
    install.args(["install", "--yes", "--download-only", "--no-install-recommends"]).args(wanted);
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

fn run(mut command: Command, hint: &str) -> Result<()> {
    let status = run_streaming(&mut command, |line| println!("{line}"))?;
    if !status.success() {
        bail!("`{}` failed ({status}), see its message above: {hint}", shown(&command));
    }
    Ok(())
}

/// The folder with what was in the packages.
pub(crate) struct Unpacked {
    root: PathBuf,
}

impl Unpacked {
    /// What [`Preparation::prepare`] left in `folder`.
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self { root: folder.join(ROOT) }
    }

    fn unpack(&self, packages: &[PathBuf]) -> Result<()> {
        for package in packages {
            let mut unpack = command("dpkg-deb");
            unpack.arg("--extract").args([package.as_path(), &self.root]);
            run(unpack, "is the disk full?")?;
        }
        Ok(())
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root.join(below)
    }

    /// An unpacked program.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        self.first(&PROGRAMS, name)
    }

    /// An unpacked program, started by the unpacked loader: the program and this machine's C library may not fit.
    pub(crate) fn command(&self, program: &str) -> Result<Command> {
        self.command_as(program, program)
    }

    /// As [`Self::command`], for a program that does what it is called.
    pub(crate) fn command_as(&self, name: &str, program: &str) -> Result<Command> {
        self.loader(&["--argv0", name], &self.program(program)?)
    }

    /// Writes `script`, which starts an unpacked program with `arguments` before its own: for whoever takes a program by its
    /// path.
    pub(crate) fn write_starter(&self, script: &Path, program: &str, arguments: &[String]) -> Result<()> {
        let mut start = self.command(program)?;
        start.args(arguments);
        let words: Vec<_> = std::iter::once(start.get_program()).chain(start.get_args()).collect();
        let words: Option<Vec<_>> = words.into_iter().map(|word| word.to_str().map(quoted)).collect();
        let words = words.context("the target folder's path is no text")?;
        std::fs::write(script, format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")))
            .with_context(|| format!("write {}", script.display()))?;
        std::fs::set_permissions(script, Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", script.display()))
    }

    /// The libraries that an unpacked program is linked with, and their loader.
    pub(crate) fn libraries_of(&self, program: &Path) -> Result<Vec<PathBuf>> {
        let mut list = self.loader(&["--list"], program)?;
        let output = list.output().with_context(|| format!("start `{}`", shown(&list)))?;
        let problem = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{}` failed: {}", shown(&list), problem.trim());
        Ok(paths_listed(&String::from_utf8_lossy(&output.stdout)))
    }

    /// The folder with the modules of the kernel.
    pub(crate) fn modules(&self) -> Result<PathBuf> {
        let folder = self.first(&MODULES, "")?;
        let kernels = folder.read_dir().with_context(|| format!("list {}", folder.display()))?;
        let mut kernels = kernels.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        match (kernels.pop(), kernels.len()) {
            (Some(kernel), 0) => Ok(kernel),
            (_, others) => bail!("{} holds {others} kernels more or less than one", folder.display()),
        }
    }

    /// The kernel with these modules.
    pub(crate) fn kernel(&self, modules: &Path) -> Result<PathBuf> {
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

/// One word for a shell, whatever is in it.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
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
            let unpacked = Unpacked { root: folder.path().to_owned() };
            assert!(unpacked.modules().is_err());
            std::fs::create_dir_all(folder.path().join(below).join("6.1.0-1-amd64")).unwrap();
            assert_eq!(unpacked.modules().unwrap(), folder.path().join(below).join("6.1.0-1-amd64"));
            std::fs::create_dir_all(folder.path().join(below).join("6.1.0-2-amd64")).unwrap();
            assert!(unpacked.modules().is_err());
        }
    }

    #[test]
    fn what_a_package_did_not_bring_is_named() {
        let unpacked = Unpacked { root: PathBuf::from("no-such-folder") };
        let error = unpacked.command("candump").unwrap_err().to_string();
        let expected =
            "the packages brought no candump in usr/bin, bin, usr/sbin, sbin: are they another Debian's?";
        assert_eq!(error, expected);
    }

    #[test]
    fn words_reach_the_program_as_they_were() {
        let mut shell = command("sh");
        shell.args(["-c", &format!("printf %s {}", quoted("it's $HOME, \"so\""))]);
        assert_eq!(shell.output().unwrap().stdout, b"it's $HOME, \"so\"");
    }
}
