//! `cargo xtask bench decode`: frames in memory to physical values, on one core, and what that allocates.

use std::alloc::System;
use std::hint::black_box;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use convoy_agent_core::decoder::{Outcome, Row};
use logs::Log;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[path = "measure/logs.rs"]
mod logs;
#[path = "measure/metric.rs"]
mod metric;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Decodes all frames to physical values in the unit of the DBC; returns the number of values.
fn decode(log: &Log, row: &mut Row) -> Result<u64> {
    let manifest = log.decoder.manifest();
    let (mut values, mut sum) = (0, 0.0);
    for frame in &log.frames {
        if log.decoder.decode(frame, row) != Outcome::Decoded {
            continue;
        }
        for (signal, raw) in row.iter() {
            let def = manifest.signal(signal).context("a decoder knows its own signals")?;
            sum += raw.physical(def);
            values += 1;
        }
    }
    black_box(sum);
    Ok(values)
}

fn main() -> Result<()> {
    let log = logs::truck()?;
    let frames = log.frames.len() as u64;
    let mut row = Row::new();
    // The first time, the row grows to its widest message.
    ensure!(decode(&log, &mut row)? > 0, "no frame of the log was decoded");
    let region = Region::new(ALLOCATOR);
    decode(&log, &mut row)?;
    let used = region.change();
    metric::print(
        "decode.allocs_per_frame",
        (used.allocations + used.reallocations) as f64 / frames as f64,
        "1",
    )?;
    let rate = metric::best_rate(|| decode(&log, &mut row).map(|_| frames))?;
    metric::print_beside("decode.frames_per_s.truck", rate, "1/s", ("cantools", cantools()?))
}

/// Frames a second of cantools, on the same log with the same DBC files.
fn cantools() -> Result<f64> {
    let python = std::env::var("CONVOY_VEHICLE_PYTHON")
        .context("cargo xtask bench decode sets CONVOY_VEHICLE_PYTHON")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/measure/cantools_peer.py");
    let files = [logs::TRUCK_LOG, logs::TRUCK_J1939, logs::TRUCK_GPS].map(logs::data);
    let output = Command::new(python).arg(script).args(files).arg(logs::TRUCK_GPS_BUS).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout)?.trim().parse().context("cantools' rate is no number")
}
