//! The release binaries beside a measuring program, started and ended.
#![allow(dead_code, reason = "each measuring program uses its part")]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// A binary of the same profile; `cargo xtask bench` builds it first.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    // target/release/examples/bench_x
    let profile =
        program.parent().and_then(|examples| examples.parent()).context("find the target folder")?;
    let path = profile.join(name);
    if !path.is_file() {
        bail!("{} is not there: run `cargo build --release -p {name}` first", path.display());
    }
    Ok(path)
}

/// A child process that ends with its owner.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// Starts the program; it reads nothing.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_owned();
        let child = command.stdin(Stdio::null()).spawn();
        child.map(Self).with_context(|| format!("start {}", program.display()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; nobody is left to tell.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port of this machine on which nothing listens.
pub(crate) fn closed_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("open a port")?;
    Ok(listener.local_addr()?.port())
}
