//! The agent as it is installed, with adapters on serial lines: asked, listened to, broken and closed.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

#[path = "adapters/elm.rs"]
mod elm;
#[path = "adapters/pty.rs"]
mod pty;

use elm::{Elm, Fault, Habits, Reply};
use pty::{Adapter, Pty};

/// From the moment something breaks to the next value, as promised to users.
const RECOVERED_WITHIN: Duration = Duration::from_secs(10);
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Adapter for Elm {
    fn handle(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        match Elm::handle(self, bytes) {
            Reply::Bytes(bytes) => Some(bytes),
            Reply::HangUp => None,
        }
    }

    fn reopened(&mut self) {
        Elm::reopened(self);
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn convoy_agent(args: &[&str], config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_convoy-agent"));
    command.args(args).arg("--config").arg(config).stdin(Stdio::null());
    command
}

/// A running agent and what it decodes.
struct Agent {
    _agent: Running,
    _tap: Running,
    lines: Receiver<(Instant, Value)>,
    dir: tempfile::TempDir,
}

impl Agent {
    /// `sources` are the sections of the configuration that are not about this test's place.
    fn start(dir: tempfile::TempDir, sources: &str) -> Self {
        let config = dir.path().join("agent.toml");
        // No broker: what counts here is what is heard.
        let text = format!(
            "[vehicle]\nid = \"00112233445566778899aabbccddeeff\"\n[broker]\nurl = \"mqtt://127.0.0.1:9\"\n\
             [spool]\ndir = \"spool\"\n{sources}"
        );
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::create(dir.path().join("agent.log")).unwrap();
        let agent = Running(convoy_agent(&["run"], &config).stderr(log).spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        let (sender, lines) = channel();
        let tap = loop {
            let mut tap = Running(
                convoy_agent(&["tap"], &config).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap(),
            );
            let mut out = BufReader::new(tap.0.stdout.take().unwrap());
            // It ends at once where no agent listens yet, and else stays.
            thread::sleep(Duration::from_millis(100));
            if tap.0.try_wait().unwrap().is_none() {
                thread::spawn(move || {
                    for line in out.by_ref().lines() {
                        let Ok(value) = line.as_deref().map(|line| serde_json::from_str(line).unwrap())
                        else {
                            return;
                        };
                        if sender.send((Instant::now(), value)).is_err() {
                            return;
                        }
                    }
                });
                break tap;
            }
            let log = std::fs::read_to_string(dir.path().join("agent.log")).unwrap();
            assert!(Instant::now() < deadline, "the agent does not run: {log}");
        };
        Self { _agent: agent, _tap: tap, lines, dir }
    }

    fn next(&self) -> (Instant, Value) {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let log = std::fs::read_to_string(self.dir.path().join("agent.log")).unwrap();
            panic!("nothing is decoded any more: {log}\n{}", self.status());
        })
    }

    /// The next value of each of these signals.
    fn values(&self, signals: &[&str]) -> BTreeMap<String, f64> {
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
    fn longest_gap(&self, signal: &str, count: usize) -> Duration {
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

    fn status(&self) -> Value {
        let output =
            convoy_agent(&["status", "--json"], &self.dir.path().join("agent.toml")).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn elm_source(device: &Path) -> String {
    format!(
        "[[source]]\nurl = \"elm327:{}\"\nbus = \"obd\"\n\
         [[poll]]\nbus = \"obd\"\nframes_per_s_max = 50\nobd_period_ms = 200\n",
        device.display()
    )
}

fn with_elm(habits: Habits, faults: &[(usize, Fault)]) -> (Pty<Elm>, Agent) {
    let dir = tempfile::tempdir().unwrap();
    let pty = Pty::start(dir.path(), Elm::new(habits, faults));
    let agent = Agent::start(dir, &elm_source(&pty.device));
    (pty, agent)
}

#[test]
fn adapters_and_their_imitations_are_read_alike() {
    let none = Habits::default();
    let imitations = [
        none,
        Habits { echoes: true, sends_newlines: true, ..none },
        Habits { packs: true, glues: true, ..none },
        Habits { knows_little: true, glues: true, echoes: true, ..none },
        Habits { is_headless: true, knows_little: true, ..none },
        Habits { is_legacy: true, glues: true, ..none },
    ];
    for habits in imitations {
        let (pty, agent) = with_elm(habits, &[]);
        let values = agent.values(&["EngineSpeed", "VehicleSpeed", "FuelLevel"]);
        let expected =
            [("EngineSpeed", 1_500.0), ("FuelLevel", 128.0 * 100.0 / 255.0), ("VehicleSpeed", 50.0)];
        for ((name, value), (expected_name, expected)) in values.iter().zip(expected) {
            assert!(name == expected_name && (value - expected).abs() < 1e-9, "{habits:?}: {values:?}");
        }
        let source = &agent.status()["sources"][0];
        assert_eq!(
            (source["state"].as_str(), source["polling"].as_str()),
            (Some("up"), Some("asking")),
            "{source}"
        );
        let ecus = if habits.is_headless { 1 } else { 2 };
        assert_eq!(source["ecus"].as_array().unwrap().len(), ecus, "{habits:?}: {source}");
        assert!(pty.adapter.lock().unwrap().asked.starts_with(&["0100".into(), "0120".into()]), "{habits:?}");
    }
}

#[test]
fn whatever_an_adapter_does_the_next_value_comes_within_ten_seconds() {
    let faults = [
        Fault::Says("STOPPED"),
        Fault::Says("BUFFER FULL"),
        Fault::Says("CAN ERROR"),
        Fault::Says("<RX ERROR"),
        Fault::Says("UNABLE TO CONNECT"),
        Fault::Says("NO DATA"),
        Fault::HalfLine,
        Fault::Resets,
        Fault::HangUntilStopped,
        Fault::HangForGood,
        Fault::HangsUp,
    ];
    let recovers = |fault: Fault| {
        let (pty, agent) = with_elm(Habits::default(), &[(12, fault)]);
        let longest = agent.longest_gap("EngineSpeed", 12);
        assert!(longest < RECOVERED_WITHIN, "{fault:?}: {longest:?}");
        assert!(pty.adapter.lock().unwrap().requests > 12, "{fault:?}");
        // Nothing wrong was ever read.
        let values = agent.values(&["EngineSpeed", "VehicleSpeed"]);
        assert_eq!(values.into_values().collect::<Vec<_>>(), [1_500.0, 50.0], "{fault:?}");
    };
    // Most of it is waiting.
    thread::scope(|scope| {
        for fault in faults {
            scope.spawn(move || recovers(fault));
        }
    });
}
