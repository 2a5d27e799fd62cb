//! The AWS deployment on an emulator: the template as it is, the real functions, the real bridge, agents that replay
//! recorded logs, and what customers get in the end.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failed step is a failed test, and says so")]

#[path = "../e2e/golden.rs"]
mod golden;
#[path = "../harness/harness.rs"]
mod harness;
#[path = "../e2e/receiver.rs"]
mod receiver;

mod bad_day;
mod database;
mod fleet;
mod proxy;
mod stack;
mod twin;
