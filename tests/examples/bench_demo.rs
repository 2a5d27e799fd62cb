//! `cargo xtask bench demo`: from the demo's start to the first event in a customer's hands.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

#[path = "measure/metric.rs"]
mod metric;
#[path = "measure/process.rs"]
mod process;

/// Longer than the goal, so that a demo that misses it still gives a number.
const DURATION: &str = "8s";

fn main() -> Result<()> {
    let mut demo = Command::new(process::binary("convoy")?);
    demo.args(["demo", "--json", "--duration", DURATION, "--http", "127.0.0.1:0"]);
    let output = demo.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start the demo")?;
    ensure!(output.status.success(), "the demo failed ({})", output.status);
    let summary: Value = serde_json::from_slice(&output.stdout).context("read the demo's summary")?;
    let first = summary["first_event_s"].as_f64();
    let first = first.with_context(|| format!("no event was delivered within {DURATION}: {summary}"))?;
    metric::print("demo.first_event_s", first, "s")
}
