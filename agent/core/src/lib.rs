//! The in-vehicle gateway as a state machine: CAN frames in, numbered envelopes out.
//!
//! ```text
//! CanFrame -> decoder (DBC, J1939 PGN) -> Row -> collect (campaigns) -> batch (columns) -> envelope
//!          \-> listen (isotp, j1939) -> decoder, signal sets -> Row
//!                                     \-> diagnosis (obd, uds, DM1) -> faults (opened, closed) -> envelope, fast lane
//! ```
//!
//! Nothing here does I/O or reads a clock: time is an argument, bytes come and go through [`gateway::Gateway`].
//! Broken input is counted in [`gateway::Counters`] with its reason, never an error upward and never a panic.
#![warn(missing_docs)]

pub mod batch;
pub mod budget;
pub mod campaigns;
pub mod collect;
pub mod condition;
pub mod dbc;
pub mod decoder;
pub mod diagnosis;
pub mod dongle;
pub mod elm;
pub mod faults;
pub mod filters;
pub mod frozen;
pub mod gateway;
pub mod hex;
pub mod isotp;
pub mod j1939;
pub mod journal;
pub mod latest;
pub mod listen;
mod multiplex;
pub mod nmea;
pub mod obd;
pub mod poll;
pub mod signal_set;
pub mod slcan;
pub mod trigger;
pub mod uds;
pub mod vin;
pub mod vss;
