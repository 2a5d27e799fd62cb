//! Virtual vehicles, for the suites and for `convoy demo`: each is a real agent (its library) on frames that were
//! recorded in a car or a truck, under an identity of its own.
//!
//! ```text
//! recordings/*.log.gz -> recording (parsed once, shared) -> playback -> disguise (VIN, position) -> convoy_agent::run
//! ```
//!
//! [`dongle`] is a dongle between a vehicle and its agent, with a line that has bad days.
//!
//! The recordings hold neither a VIN nor a position (`recordings/SOURCE.md`); the disguise puts a made-up VIN and a
//! place in the open sea where they were. The same seed makes the same fleet.
#![warn(missing_docs)]

pub mod dice;
pub mod disguise;
pub mod dongle;
pub mod drive;
pub mod playback;
pub mod recording;
pub mod route;
pub mod vehicle;

/// What a virtual vehicle's agent counts; named here so that the demo needs no arrow to the agent.
pub use convoy_agent::metrics::Metrics;
