//! What the services do on bad days, and emulators do not: throttling of a part, errors of the server, no end of it.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod buses;
mod buses_v2;
mod dynamodb;
mod kinesis;
mod provisioner;
mod queues;

#[path = "../harness/alerts.rs"]
mod alerts;
#[path = "../harness/customers.rs"]
mod customers;
#[path = "../harness/emulator.rs"]
mod emulator;
#[path = "../harness/fake.rs"]
mod fake;
#[path = "../harness/signature.rs"]
mod signature;
