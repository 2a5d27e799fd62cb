//! The whole path with the real programs on loopback: agent, broker, cloud, customers.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failed step is a failed test, and says so")]

#[path = "../harness/harness.rs"]
mod harness;

mod attacks;
mod closed_loop;
mod fleet;
mod golden;
mod receiver;
mod secure;
mod ways_in;
