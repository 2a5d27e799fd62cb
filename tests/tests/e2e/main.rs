//! The whole path with the real programs on loopback: agent, broker, cloud, customers.

#[path = "../harness/harness.rs"]
mod harness;

mod attacks;
mod fleet;
mod golden;
mod receiver;
mod ways_in;
