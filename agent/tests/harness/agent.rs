//! An agent in a process of its own, and what it decodes.
#![allow(dead_code, reason = "no test program needs all of it")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A process that ends with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The agent's program: the one built with this test, or the one that a suite brought along.
pub(crate) fn program() -> String {
    let built = env!("CARGO_BIN_EXE_convoy-agent");
    std::env::var("CONVOY_AGENT_BIN").unwrap_or_else(|_| built.to_owned())
}

fn convoy_agent(args: &[&str], config: &Path) -> Command {
    let mut command = Command::new(program());
    command.args(args).arg("--config").arg(config).stdin(Stdio::null());
    command
}

/// A running agent and what it decodes.
pub(crate) struct Agent {
    agent: Running,
    tap: Option<Running>,
    lines: Receiver<(Instant, Value)>,
    dir: tempfile::TempDir,
}

impl Agent {
    /// Starts it and watches what it decodes. `sources` are the sections of the configuration that are not about this test's
    /// place; nobody listens at the broker's port.
    pub(crate) fn start(dir: tempfile::TempDir, sources: &str) -> Self {
        let mut agent = Self::start_unwatched(dir, "mqtt://127.0.0.1:9", sources);
        agent.watch();
        agent
    }

    /// Kills it as a power cut would, then starts it in the same place.
    pub(crate) fn restart(mut self) -> Self {
        self.agent.0.kill().unwrap();
        self.agent.0.wait().unwrap();
        Self::launch(self.dir)
    }

    /// Starts it; returns when it answers.
    pub(crate) fn start_unwatched(dir: tempfile::TempDir, broker: &str, sources: &str) -> Self {
        let config = dir.path().join("agent.toml");
        let text = format!(
            "[vehicle]\nid = \"00112233445566778899aabbccddeeff\"\n[broker]\nurl = \"{broker}\"\n\
             allow_plaintext = true\n[spool]\ndir = \"spool\"\n{sources}"
        );
        std::fs::write(&config, text).unwrap();
        Self::launch(dir)
    }

    fn launch(dir: tempfile::TempDir) -> Self {
        let config = dir.path().join("agent.toml");
        let log = std::fs::File::create(dir.path().join("agent.log")).unwrap();
        let agent = Running(convoy_agent(&["run"], &config).stderr(log).spawn().unwrap());
        let agent = Self { agent, tap: None, lines: channel().1, dir };
        let deadline = Instant::now() + PATIENCE;
        while agent.try_status().is_none() {
            assert!(Instant::now() < deadline, "the agent does not run: {}", agent.log());
            thread::sleep(Duration::from_millis(50));
        }
        agent
    }

    /// Watches what it decodes from now on.
    pub(crate) fn watch(&mut self) {
        let config = self.dir.path().join("agent.toml");
        let mut tap = convoy_agent(&["tap"], &config).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(tap.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in out.lines() {
                let Ok(value) = line.as_deref().map(|line| serde_json::from_str(line).unwrap()) else {
                    return;
                };
                if sender.send((Instant::now(), value)).is_err() {
                    return;
                }
            }
        });
        (self.tap, self.lines) = (Some(Running(tap)), lines);
        self.wait_for("a watcher", |status| status["watchers"].as_u64() >= Some(1));
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("agent.toml")
    }

    /// Has it read its configuration again.
    pub(crate) fn hang_up(&self) {
        let status = Command::new("kill").args(["-HUP", &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "{text} is not said: {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its process id, for signals.
    pub(crate) fn pid(&self) -> u32 {
        self.agent.0.id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap()
    }

    /// Waits until its status is as `holds` wants it.
    pub(crate) fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // While it reads its configuration again, nobody answers.
            let status = self.try_status();
            if let Some(status) = status.as_ref().filter(|status| holds(status)) {
                return status.clone();
            }
            assert!(Instant::now() < deadline, "{what} does not come: {status:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn next(&self) -> (Instant, Value) {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("nothing is decoded any more: {}\n{}", self.log(), self.status());
        })
    }

    /// The next value of each of these signals.
    pub(crate) fn values(&self, signals: &[&str]) -> BTreeMap<String, f64> {
        let mut found = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        while found.len() < signals.len() {
            let (_, line) = self.next();
            let signal = line["signal"].as_str().unwrap_or_default().to_owned();
            if signals.contains(&signal.as_str()) {
                found.insert(signal, line["value"].as_f64().unwrap());
            }
            assert!(Instant::now() < deadline, "{found:?} of {signals:?}");
        }
        found
    }

    /// Longest time without a value of `signal` until `count` of them came.
    pub(crate) fn longest_gap(&self, signal: &str, count: usize) -> Duration {
        let (mut before, mut longest, mut seen) = (Instant::now(), Duration::ZERO, 0);
        while seen < count {
            let (at, line) = self.next();
            if line["signal"] == signal {
                longest = longest.max(at.saturating_duration_since(before));
                (before, seen) = (at, seen + 1);
            }
        }
        longest
    }

    pub(crate) fn status(&self) -> Value {
        self.try_status().unwrap_or_else(|| panic!("the agent does not answer: {}", self.log()))
    }

    fn try_status(&self) -> Option<Value> {
        let config = self.dir.path().join("agent.toml");
        let output = convoy_agent(&["status", "--json"], &config).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }
}
