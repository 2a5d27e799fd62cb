//! The AWS ports against the suites that every home's must pass, on an emulator and on librdkafka's own cluster.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod cost;
mod customer_queue;
mod dynamodb;
mod feed;
mod objects;
mod provisioner;
mod rules;
mod stream;
mod subscriber;

#[path = "../harness/customers.rs"]
mod customers;
#[path = "../harness/emulator.rs"]
mod emulator;
#[path = "../harness/fake.rs"]
mod fake;
#[path = "../harness/store.rs"]
mod store;
