//! `cargo xtask bench agent`: speed of the gateway, size of the agent's binary, and its memory while it has little to
//! do: it replays the truck's log at recorded speed, spools every sample, and finds no broker.

use std::fs::{self, File};
use std::hint::black_box;
use std::path::Path;
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
fn start(binary: &Path, dir: &Path) -> Result<Running> {
    let config = format!(
        "[vehicle]\nid = \"{vehicle}\"\n\
         [broker]\nurl = \"mqtt://127.0.0.1:{port}\"\n\
         [spool]\ndir = \"spool\"\n\
         [source]\nkind = \"replay\"\nlog = {log:?}\nspeed = 1.0\ntime = \"now\"\nrepeat = true\n\
         [[dbc]]\nfile = {j1939:?}\n\
         [[dbc]]\nfile = {gps:?}\nbus = \"{gps_bus}\"\n",
        vehicle = VehicleId([0x5a; 16]),
        port = process::closed_port()?,
        log = logs::data(logs::TRUCK_LOG),
        j1939 = logs::data(logs::TRUCK_J1939),
        gps = logs::data(logs::TRUCK_GPS),
        gps_bus = logs::TRUCK_GPS_BUS,
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
    let agent = start(binary, dir.path())?;
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

fn main() -> Result<()> {
    let binary = process::binary("convoy-agent")?;
    metric::print("agent.binary_mib", fs::metadata(&binary)?.len() as f64 / MIB, "MiB")?;
    metric::print("agent.rss_idle_mib", settled_rss_mib(&binary)?, "MiB")?;
    metric::print("agent.frames_per_s.truck", gateway_speed()?, "1/s")
}
