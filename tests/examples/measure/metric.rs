//! What a measuring program prints, and how it takes the time.
#![allow(dead_code, reason = "each measuring program uses its part")]

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

/// Runs of a speed: the best one counts, the others were disturbed.
const RUNS: usize = 5;
/// Shortest time of a run.
const RUN_MIN: Duration = Duration::from_millis(500);

/// Prints one measured value, a JSON object on a line of standard output.
pub(crate) fn print(metric: &str, value: f64, unit: &str) -> Result<()> {
    anyhow::ensure!(value.is_finite(), "{metric} is not a number: {value}");
    writeln!(std::io::stdout(), "{}", json!({"metric": metric, "value": value, "unit": unit}))?;
    Ok(())
}

/// As [`print`], with what a peer took in the same run.
pub(crate) fn print_beside(
    metric: &str,
    value: f64,
    unit: &str,
    (peer, peer_value): (&str, f64),
) -> Result<()> {
    anyhow::ensure!(
        value.is_finite() && peer_value.is_finite(),
        "{metric} is not a number: {value}, {peer_value}"
    );
    let line =
        json!({"metric": metric, "value": value, "unit": unit, "peer": peer, "peer_value": peer_value});
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// Units a second of a piece of work that is repeated until a run is long enough; the best of several runs.
/// `work` returns the units that it worked off, more than 0.
pub(crate) fn best_rate(mut work: impl FnMut() -> Result<u64>) -> Result<f64> {
    work()?;
    let mut best = 0.0f64;
    for _ in 0..RUNS {
        let (start, mut units) = (Instant::now(), 0);
        while start.elapsed() < RUN_MIN {
            units += work()?;
        }
        best = best.max(units as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}
