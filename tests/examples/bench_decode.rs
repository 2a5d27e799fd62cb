//! `cargo xtask bench decode`: frames in memory to physical values, on one core, and what that allocates.

use std::alloc::System;
use std::hint::black_box;

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
    metric::print("decode.frames_per_s.truck", rate, "1/s")
}
