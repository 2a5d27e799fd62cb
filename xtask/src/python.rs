//! Tools that come from PyPI, in a virtual environment of the target folder: AWS's own command lines, the template's
//! linters, the emulator that suites run against, and what the bench's Python function stands on.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::command::{command, run_streaming, shown, target_dir};

/// An environment, pinned, so that it does the same tomorrow.
struct Environment {
    /// Its folder, below that of the tools.
    name: &'static str,
    pinned: &'static [&'static str],
}

/// The emulator's gaps that the template works around are this version's.
const AWS: Environment = Environment {
    name: "aws",
    pinned: &["awscli==1.46.3", "aws-sam-cli==1.167.0", "cfn-lint==1.53.3", "ministack[full]==1.5.33"],
};
/// AWS's own runtime for Python functions and its SDK.
const PEER: Environment = Environment { name: "peer", pinned: &["awslambdaric==4.2.2", "boto3==1.44.8"] };

/// The best known decoder of DBC files, and others' ends of SLCAN, ISO-TP and UDS.
const VEHICLE: Environment = Environment {
    name: "vehicle",
    pinned: &[
        "cantools==45.1.0",
        "python-can==4.6.1",
        "pyserial==3.5",
        "can-isotp==2.0.7",
        "udsoncan==1.26.1",
    ],
};

/// Written when all is installed: what is in the environment.
const MARK: &str = "installed.txt";

/// The programs of the environment.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    bin: PathBuf,
}

impl Tools {
    /// Path of a program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// The tools, installed at the first call (a minute or two) and found by the later ones.
///
/// # Errors
/// Where this machine has no Python with venv, or PyPI is out of reach.
pub(crate) fn tools() -> Result<Tools> {
    AWS.ready()
}

/// A Python that has AWS's runtime for functions and its SDK, found or installed as [`tools`] are.
///
/// # Errors
/// As [`tools`].
pub(crate) fn peer() -> Result<PathBuf> {
    Ok(PEER.ready()?.program("python"))
}

/// A Python that has cantools, python-can, can-isotp and udsoncan, found or installed as [`tools`] are.
///
/// # Errors
/// As [`tools`].
pub(crate) fn vehicle() -> Result<PathBuf> {
    Ok(VEHICLE.ready()?.program("python"))
}

impl Environment {
    fn ready(&self) -> Result<Tools> {
        let folder = target_dir()?.join("tools").join(self.name);
        let tools = Tools { bin: folder.join("bin") };
        let mark = folder.join(MARK);
        let pinned = self.pinned.join("\n");
        if std::fs::read_to_string(&mark).is_ok_and(|installed| installed == pinned) {
            return Ok(tools);
        }
        install(self.pinned, &folder)?;
        std::fs::write(&mark, pinned).with_context(|| format!("write {}", mark.display()))?;
        Ok(tools)
    }
}

fn install(pinned: &[&str], folder: &Path) -> Result<()> {
    println!("installing {} into {}, once", pinned.join(", "), folder.display());
    let started = Instant::now();
    // What an interrupted or older installation left behind would be mixed with this one.
    if folder.exists() {
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    let mut make = command("python3");
    make.args(["-m", "venv"]).arg(folder);
    run(make, "Python 3.10 or newer with its venv module is needed (Debian: apt-get install python3-venv)")?;
    let mut install = command(folder.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(pinned);
    run(install, "see pip's message above; it needs PyPI or a mirror of it")?;
    println!("installed in {:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}

fn run(mut command: std::process::Command, hint: &str) -> Result<()> {
    let status = run_streaming(&mut command, |line| println!("{line}"))?;
    if !status.success() {
        bail!("`{}` failed ({status}): {hint}", shown(&command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_pinned_to_one_version() {
        for tool in AWS.pinned.iter().chain(PEER.pinned) {
            let version = tool.split_once("==").map(|(_, version)| version).unwrap_or_default();
            assert!(version.split('.').count() == 3, "{tool}");
        }
    }
}
