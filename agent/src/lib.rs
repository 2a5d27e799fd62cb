//! The in-vehicle agent: the shell around `convoy-agent-core`'s gateway.
//!
//! ```text
//! replay -> log -> CanFrame -> run (gateway) -> envelope -> spool (disk) -> uplink (MQTT) -> cloud
//!                                                              ^------ stored ------'
//! ```
//!
//! [`run::run`] is one agent; a process may run many, each with its own spool directory. Nothing here is global, and
//! nothing is written outside the given directories.
#![warn(missing_docs)]

pub mod causes;
pub mod cli;
mod clock;
pub mod config;
pub mod decode;
pub mod desired;
pub mod dongle;
pub mod enrol;
pub mod identity;
pub mod live;
pub mod log;
pub mod metrics;
mod monitor;
pub mod replay;
pub mod run;
pub mod source;
pub mod spool;
mod state_file;
pub mod status;
mod tap;
pub mod uplink;
pub mod vectors;
