//! `cargo xtask bench dongle`: how much of a microcontroller the dongle takes, and how many frames it carries on an emulated one.

use anyhow::{Context, Result, ensure};

use super::{Emulation, Image, LM3S6965, SLOT_A};
use crate::command::{cargo, run_streaming, shown};

/// A flood of full classic frames; it prints the rate. The suite has it built as it is run here: what is measured is QEMU.
const FLOOD: [&str; 8] = [
    "test",
    "-q",
    "-p",
    "convoy-simulator",
    "--test",
    "firmware",
    "a_flood_of_full_classic_frames_loses_none",
    "--",
];
const RATE: &str = "dongle.frames_per_s";
/// The best counts: whatever else the machine does makes an emulated board slower, and nothing makes it faster.
const RUNS: usize = 3;

/// A metric, its value and its unit.
pub(crate) type Measured = (&'static str, f64, &'static str);

/// Builds the firmware and measures it.
///
/// # Errors
/// When it cannot be built, or does not carry every frame.
pub(crate) fn measure() -> Result<Vec<Measured>> {
    let (images, emulation) = super::built()?;
    let image = images.iter().find(|image| image.board.name == LM3S6965 && image.part.place == SLOT_A.place);
    let image = image.with_context(|| format!("no board is {LM3S6965}"))?;
    let mut metrics = sizes(image);
    let mut best = 0.0_f64;
    for run in 1..=RUNS {
        let rate = flood(&emulation)?;
        eprintln!("== dongle: flood {run} of {RUNS}: {rate} frames/s");
        best = best.max(rate);
    }
    metrics.push((RATE, best, "1/s"));
    Ok(metrics)
}

#[allow(clippy::cast_precision_loss, reason = "bytes of a microcontroller")]
fn sizes(image: &Image) -> Vec<Measured> {
    let kib = |bytes: u64| bytes as f64 / 1_024.0;
    vec![
        ("dongle.flash_kib", kib(image.size.flash_bytes), "KiB"),
        ("dongle.ram_kib", kib(image.ram_bytes()), "KiB"),
        ("dongle.stack_bytes", image.stack_bytes as f64, "B"),
    ]
}

fn flood(emulation: &Emulation) -> Result<f64> {
    let mut test = cargo(&FLOOD);
    test.args(["--exact", "--nocapture"]);
    test.envs(emulation.clone().variables());
    let mut rate = None;
    let status = run_streaming(&mut test, |line| rate = rate.or_else(|| rate_in(line)))?;
    ensure!(status.success(), "`{}` failed ({status})", shown(&test));
    rate.with_context(|| format!("`{}` printed no {RATE}", shown(&test)))
}

/// The test's name stands before it, on the same line.
fn rate_in(line: &str) -> Option<f64> {
    let (_, rate) = line.split_once(RATE)?;
    rate.strip_prefix('=')?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_found_behind_the_name_of_the_test_and_alone() {
        assert_eq!(rate_in("test a_flood ... dongle.frames_per_s=8123"), Some(8_123.0));
        assert_eq!(rate_in("dongle.frames_per_s=8123.5"), Some(8_123.5));
        assert_eq!(rate_in("test a_flood ... ok"), None);
    }
}
