//! The core against recorded logs and their golden values, and against damage of every kind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, its own functions outside #[test] too")]

mod campaigns;
mod decode;
mod diagnostics;
mod gateway;
mod journal;
mod recording;
mod robustness;
mod transport;
mod trouble_codes;
mod vss;
