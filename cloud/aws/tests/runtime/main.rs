//! The functions as Lambda runs them: the real program behind the runtime API, on an emulator to which the way is bad
//! at times, killed and started again.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod archive;
mod breaks;
mod ingest;
mod start;
mod webhook;

#[path = "../harness/alerts.rs"]
mod alerts;
#[path = "../harness/customers.rs"]
mod customers;
#[path = "../harness/emulator.rs"]
mod emulator;
#[path = "../harness/fake.rs"]
mod fake;
#[path = "../harness/proxy.rs"]
mod proxy;
#[path = "../harness/runtime.rs"]
mod runtime;
#[path = "../harness/shard.rs"]
mod shard;
#[path = "../harness/stage.rs"]
mod stage;
#[path = "../harness/store.rs"]
mod store;
#[path = "../harness/vehicle.rs"]
mod vehicle;

/// The program behind all functions.
const BOOTSTRAP: &str = env!("CARGO_BIN_EXE_bootstrap");
