//! The agent as it is installed at the other end of the emulated dongle's line.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use convoy_protocol::frame::CanId;
use flate2::read::MultiGzDecoder;
use serde_json::Value;

use crate::agent::Sent;
use crate::machine::{End, Machine, PATIENCE, POLL};

/// Frames on their way at most: the agent drops what a watcher does not take in time, and that would be the test's own fault.
const UNDERWAY_MAX: usize = 512;

/// The agent's program, which `cargo xtask test firmware` builds beside this one.
pub(crate) fn agent_program() -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let program = exe.parent().unwrap().parent().unwrap().join("convoy-agent");
    assert!(program.is_file(), "{} is not built: run `cargo xtask test firmware`", program.display());
    program
}

fn convoy_agent(arguments: &[&str], config: &Path) -> Command {
    let mut command = Command::new(agent_program());
    command.args(arguments).arg("--config").arg(config).stdin(Stdio::null());
    command
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running agent that takes frames from a dongle, and what it says they hold.
struct Agent {
    config: PathBuf,
    lines: Receiver<String>,
    _tap: Running,
    _agent: Running,
    _dir: tempfile::TempDir,
}

impl Agent {
    /// Started, connected and watched.
    fn start(link: &Path, dbc: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("agent.toml");
        std::fs::write(dir.path().join("bytes.dbc"), dbc).unwrap();
        // Nobody listens at the broker's port.
        let text = format!(
            "[vehicle]\nid = \"00112233445566778899aabbccddeeff\"\n[broker]\nurl = \"mqtt://127.0.0.1:9\"\n\
             allow_plaintext = true\n[spool]\ndir = \"spool\"\n[[dbc]]\nfile = \"bytes.dbc\"\n\
             [[source]]\nurl = \"dongle:{}?bitrate=500000\"\nbus = \"truck\"\n",
            link.display()
        );
        std::fs::write(&config, text).unwrap();
        let agent = Running(convoy_agent(&["run"], &config).spawn().unwrap());
        wait_for_status(&config, |status| status["sources"][0]["state"] == "up");
        let mut tap = Running(convoy_agent(&["tap"], &config).stdout(Stdio::piped()).spawn().unwrap());
        let output = BufReader::new(tap.0.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        wait_for_status(&config, |status| status["watchers"] == 1);
        Self { config, lines, _tap: tap, _agent: agent, _dir: dir }
    }

    /// The next thing that it says: the name of a frame, the place of a part in it, and the part.
    fn next(&self) -> (String, usize, u32) {
        let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            panic!("the agent says no more: {:#}", status(&self.config).unwrap_or_default())
        });
        let value: Value = serde_json::from_str(&line).unwrap();
        let text = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("{line}")).to_owned();
        let place = text("signal").trim_start_matches('P').parse().unwrap();
        (text("message"), place, value["value"].as_f64().unwrap() as u32)
    }
}

fn status(config: &Path) -> Option<Value> {
    let output = convoy_agent(&["status", "--json"], config).output().unwrap();
    serde_json::from_slice(&output.stdout).ok()
}

fn wait_for_status(config: &Path, holds: impl Fn(&Value) -> bool) -> Value {
    let started = Instant::now();
    loop {
        let status = status(config);
        if let Some(status) = status.as_ref().filter(|status| holds(status)) {
            return status.clone();
        }
        assert!(started.elapsed() < PATIENCE, "{status:?}");
        std::thread::sleep(POLL);
    }
}

/// A recorded log in candump's form, "(1635188455.020850) can1 18F00E00#821639C4FFFFFFFF", by a reader that is not the product's.
fn recorded(path: &str) -> Vec<Sent> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let mut text = String::new();
    MultiGzDecoder::new(std::fs::File::open(path).unwrap()).read_to_string(&mut text).unwrap();
    let frame = |line: &str| {
        let (id, data) = line.rsplit(' ').next()?.split_once('#')?;
        let bits = u32::from_str_radix(id, 16).ok()?;
        let byte = |at: usize| u8::from_str_radix(data.get(at..at + 2)?, 16).ok();
        let data = (0..data.len()).step_by(2).map(byte).collect::<Option<_>>()?;
        Some((if id.len() == 8 { CanId::Extended(bits) } else { CanId::Standard(bits as u16) }, data))
    };
    text.lines().map(|line| frame(line).unwrap_or_else(|| panic!("{line}"))).collect()
}

/// What a frame is called: its identifier, and of how many bits.
fn name(id: CanId) -> String {
    let letter = if matches!(id, CanId::Extended(_)) { 'X' } else { 'S' };
    format!("{letter}{:08X}", id.bits())
}

/// A message for every identifier, with every byte: two words where a frame is full, else single bytes of which the agent finds as
/// many as the frame has.
fn dbc(frames: &[Sent]) -> String {
    let mut dbc = "VERSION \"\"\nBU_: Truck\n".to_owned();
    let mut ids: Vec<(CanId, bool)> = frames.iter().map(|(id, data)| (*id, data.len() == 8)).collect();
    ids.sort();
    ids.dedup();
    for (id, is_full) in ids {
        let kind = if matches!(id, CanId::Extended(_)) { 1 << 31 } else { 0 };
        writeln!(dbc, "BO_ {} {}: 8 Truck", id.bits() | kind, name(id)).unwrap();
        let bits = if is_full { 32 } else { 8 };
        for place in 0..64 / bits {
            let first = place * bits;
            writeln!(dbc, " SG_ P{place} : {first}|{bits}@1+ (1,0) [0|0] \"\" Truck").unwrap();
        }
    }
    dbc
}

/// What the agent is to say of a frame.
fn parts((id, data): &Sent) -> impl Iterator<Item = (String, usize, u32)> {
    let bytes = if data.len() == 8 { 4 } else { 1 };
    let part = |part: &[u8]| part.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
    let name = name(*id);
    data.chunks(bytes).map(part).enumerate().map(move |(place, part)| (name.clone(), place, part))
}

#[test]
fn a_recorded_truck_goes_through_the_dongle_into_the_agent_equal_and_in_order() {
    let frames = recorded("data/css-j1939-truck-gps/11111111_00000012_00000001_candump.log.gz");
    assert_eq!(frames.len(), 57_849);
    let mut machine = Machine::lm3s6965_on_a_terminal();
    let agent = Agent::start(&machine.link, &dbc(&frames));
    let mut sent = 0;
    for (number, frame) in frames.iter().enumerate() {
        while sent < frames.len() && sent < number + UNDERWAY_MAX / 2 {
            let end = frames.len().min(number + UNDERWAY_MAX);
            machine.bus.send_frames(&frames[sent..end]);
            sent = end;
        }
        for part in parts(frame) {
            assert_eq!(agent.next(), part, "of frame {number}: {frame:?}");
        }
    }
    // With each batch the dongle says what it lost before; only the count of frames may be late.
    let status = wait_for_status(&agent.config, |status| status["sources"][0]["frames"] == frames.len());
    let source = &status["sources"][0];
    for what in ["dropped", "lines_damaged", "sends_dropped", "reopened"] {
        assert_eq!(source[what], 0, "{what}: {source:#}");
    }
    machine.bus.end();
    assert_eq!(machine.ended(), End::clean());
}
