//! `cargo xtask sim`: days of the simulated dongle, one again or many.

use anyhow::Result;
use clap::Args;

use crate::command::{cargo, run_streaming, shown};

/// The package beside all others: their features are united in the same way, so nothing is built twice.
const TEST: &[&str] = &["test", "--workspace", "--test", "simulation"];
/// The test that draws its days from seeds.
const NAME: &str = "no_wrong_frame_ever_arrives_and_every_lost_one_is_counted_whatever_the_line_does";

/// Which days.
#[derive(Args)]
pub(crate) struct Options {
    /// The first seed; alone, the only one: what a failed test prints.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds; as many as in the suite without either.
    #[arg(long)]
    seeds: Option<u64>,
}

/// Runs them; false if something was not as it must be.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let mut command = cargo(TEST);
    command.args(["--", "--nocapture", NAME]);
    for (name, value) in [("CONVOY_SIM_SEED", options.seed), ("CONVOY_SIM_SEEDS", options.seeds)] {
        if let Some(value) = value {
            command.env(name, value.to_string());
        }
    }
    println!("-- {}", shown(&command));
    Ok(run_streaming(&mut command, |line| println!("{line}"))?.success())
}
