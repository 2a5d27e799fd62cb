//! Logs of the programs: JSON lines on standard output, which Lambda and ECS keep.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::environment::Environment;

/// Starts logging at the levels that `RUST_LOG` names, `info,convoy_aws=debug`; without it, or where it cannot be read,
/// at `info`.
pub fn init(environment: &Environment) {
    // Targets, not EnvFilter, whose regular expressions every cold start would load.
    let levels = environment.get("RUST_LOG").and_then(|text| text.parse::<Targets>().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let lines = tracing_subscriber::fmt::layer().json().with_current_span(false);
    tracing_subscriber::registry().with(lines).with(levels).init();
}
