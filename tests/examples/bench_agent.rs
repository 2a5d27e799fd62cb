//! `cargo xtask bench agent`: speed of the gateway, size of the agent's binary, and its memory while it has little to
//! do: it replays the truck's log at recorded speed, spools every sample, and finds no broker.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use convoy_protocol::id::VehicleId;
use process::Running;

#[path = "measure/logs.rs"]
mod logs;
#[path = "measure/metric.rs"]
mod metric;
#[path = "measure/process.rs"]
mod process;

const MIB: f64 = 1024.0 * 1024.0;
const STARTED: &str = "agent started";
const STARTED_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
/// Memory is settled when this many readings in a row stay within [`SETTLED_KIB`].
const SETTLED_READINGS: usize = 30;
const SETTLED_KIB: u64 = 64;
const SETTLED_WITHIN: Duration = Duration::from_secs(30);

/// Frames to envelopes: decode, collect, batches of 1,000 samples, zstd.
fn gateway_speed() -> Result<f64> {
    let log = logs::truck()?;
    metric::best_rate(|| {
        let mut gateway = logs::gateway(&log, VehicleId([0x5a; 16]), 1_000);
        for frame in &log.frames {
            gateway.handle_frame(frame.timestamp_us, frame);
            while let Some(output) = gateway.poll_output() {
                black_box(output);
            }
        }
        let counters = gateway.counters();
        ensure!(counters.frames_refused == 0, "{} frames were refused", counters.frames_refused);
        Ok(counters.frames)
    })
}

/// Starts the agent in `dir` and waits until it says that it runs.
fn start(binary: &Path, dir: &Path, log: &Path, more: &str) -> Result<Running> {
    let config = format!(
        "[vehicle]\nid = \"{vehicle}\"\n\
         [broker]\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         [spool]\ndir = \"spool\"\n\
         [source]\nkind = \"replay\"\nlog = {log:?}\nspeed = 1.0\ntime = \"now\"\n{more}",
        vehicle = VehicleId([0x5a; 16]),
        port = process::closed_port()?,
    );
    let (config_file, log_file) = (dir.join("agent.toml"), dir.join("agent.log"));
    fs::write(&config_file, config)?;
    let mut command = Command::new(binary);
    command.arg("run").arg("--config").arg(&config_file).env("RUST_LOG", "info");
    command.stdout(Stdio::null()).stderr(File::create(&log_file)?);
    let mut agent = Running::start(&mut command)?;
    let deadline = Instant::now() + STARTED_WITHIN;
    loop {
        let log = fs::read_to_string(&log_file)?;
        if log.contains(STARTED) {
            return Ok(agent);
        }
        if let Some(status) = agent.0.try_wait()? {
            bail!("convoy-agent ended ({status}): {log}");
        }
        ensure!(Instant::now() < deadline, "convoy-agent does not say that it runs: {log}");
        sleep(POLL);
    }
}

/// Resident memory of a process, KiB.
fn rss_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS is no number")
}

/// Resident memory once it no longer changes, MiB.
fn settled_rss_mib(binary: &Path) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let more = format!(
        "repeat = true\n[[dbc]]\nfile = {:?}\n[[dbc]]\nfile = {:?}\nbus = \"{}\"\n",
        logs::data(logs::TRUCK_J1939),
        logs::data(logs::TRUCK_GPS),
        logs::TRUCK_GPS_BUS
    );
    let agent = start(binary, dir.path(), &logs::data(logs::TRUCK_LOG), &more)?;
    let deadline = Instant::now() + SETTLED_WITHIN;
    let mut readings: Vec<u64> = Vec::new();
    loop {
        readings.push(rss_kib(agent.0.id())?);
        let last =
            readings.last_chunk::<SETTLED_READINGS>().map(|last| (last.iter().min(), last.iter().max()));
        if let Some((Some(least), Some(most))) = last
            && most - least <= SETTLED_KIB
        {
            return Ok(*most as f64 / 1024.0);
        }
        ensure!(Instant::now() < deadline, "the agent's memory does not settle: {readings:?} KiB");
        sleep(POLL);
    }
}

/// Frames a second of a bus with 500 kbit/s that is never idle: 8 bytes behind an id of 29 bits, stuffed.
const FRAMES_PER_S: u64 = 4_000;
const BUSES: u64 = 4;
/// How long the load lasts, and when its measuring begins.
const LOAD_S: u64 = 24;
const LOAD_FROM_S: u64 = 6;

/// The truck's frames on four buses at full load, as a recording.
fn four_buses(file: &Path) -> Result<()> {
    let log = logs::truck()?;
    let mut out = BufWriter::new(File::create(file)?);
    for number in 0..BUSES * FRAMES_PER_S * LOAD_S {
        let frame = &log.frames[number as usize % log.frames.len()];
        let time_us = number * 1_000_000 / (BUSES * FRAMES_PER_S);
        let id = frame.id.to_string();
        write!(
            out,
            "({}.{:06}) can{} {}#",
            1_700_000_000 + time_us / 1_000_000,
            time_us % 1_000_000,
            number % BUSES,
            &id[2..]
        )?;
        frame.data().iter().try_for_each(|byte| write!(out, "{byte:02X}"))?;
        writeln!(out)?;
    }
    Ok(out.flush()?)
}

/// Clock ticks that a process has used.
fn cpu_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent has ended")?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).context("no times");
    Ok(number(11)? + number(12)?)
}

/// Frames that the agent says it has taken.
fn frames_taken(binary: &Path, config: &Path) -> Result<u64> {
    let output = Command::new(binary).args(["status", "--json", "--config"]).arg(config).output()?;
    let status: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("the agent does not answer")?;
    status["counters"]["frames"].as_u64().context("no frames in its status")
}

/// What the agent takes of the machine while four buses are full, and every signal is collected once a second.
fn four_bus_load(binary: &Path) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (recording, config) = (dir.path().join("four.log"), dir.path().join("agent.toml"));
    four_buses(&recording)?;
    let campaign = "[[campaign]]\nname = \"all\"\nwindow_ms = 10000\nsignals = [{ pattern = \"*\", period_ms = 1000 }]\n";
    let agent = start(
        binary,
        dir.path(),
        &recording,
        &format!("repeat = false\n[[dbc]]\nfile = {:?}\n{campaign}", logs::data(logs::TRUCK_J1939)),
    )?;
    let (begun, pid) = (Instant::now(), agent.0.id());
    sleep(Duration::from_secs(LOAD_FROM_S));
    let (from, ticks, mut most_kib) = (begun.elapsed(), cpu_ticks(pid)?, 0);
    while begun.elapsed() < Duration::from_secs(LOAD_S - 1) {
        most_kib = most_kib.max(rss_kib(pid)?);
        sleep(POLL);
    }
    let used = cpu_ticks(pid)? - ticks;
    let seconds = (begun.elapsed() - from).as_secs_f64();
    // A hundred ticks a second, so each is one per cent of a second.
    metric::print("agent.cpu_4bus_percent", used as f64 / seconds, "%")?;
    metric::print("agent.rss_4bus_mib", most_kib as f64 / 1024.0, "MiB")?;
    sleep(Duration::from_secs(2));
    let all = BUSES * FRAMES_PER_S * LOAD_S;
    metric::print("agent.frames_lost_4bus", (all - frames_taken(binary, &config)?) as f64, "1")
}

fn main() -> Result<()> {
    let binary = match std::env::var_os("CONVOY_AGENT_BIN") {
        Some(binary) => PathBuf::from(binary),
        None => process::binary("convoy-agent")?,
    };
    metric::print("agent.binary_mib", fs::metadata(&binary)?.len() as f64 / MIB, "MiB")?;
    metric::print("agent.rss_idle_mib", settled_rss_mib(&binary)?, "MiB")?;
    four_bus_load(&binary)?;
    metric::print("agent.frames_per_s.truck", gateway_speed()?, "1/s")
}
