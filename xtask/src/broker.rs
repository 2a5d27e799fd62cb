//! Debian's Mosquitto on a port of the loopback, for as long as it is held.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::install::MOSQUITTO;

const STARTS_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

pub(crate) struct Mosquitto {
    pub(crate) port: u16,
    process: Child,
    _dir: TempDir,
}

impl Mosquitto {
    /// Starts it without passwords and without TLS; returns when it takes connections.
    ///
    /// # Errors
    /// When it is not installed, or does not start in time.
    pub(crate) fn start() -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("mosquitto.conf");
        // As root it would become a user who may not read the folder.
        let text =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nmax_packet_size 1048576\n");
        fs::write(&config, text)?;
        let mut command = Command::new(MOSQUITTO);
        command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().context("cannot start mosquitto")?;
        let mut broker = Self { port, process, _dir: dir };
        let deadline = Instant::now() + STARTS_WITHIN;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            let ended = broker.process.try_wait()?;
            ensure!(ended.is_none(), "mosquitto ended at once: {ended:?}");
            ensure!(Instant::now() < deadline, "mosquitto takes no connection within {STARTS_WITHIN:?}");
            sleep(POLL);
        }
        Ok(broker)
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
