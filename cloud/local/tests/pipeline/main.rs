//! From stream records to feeds and queues: entitlement, repetition, bad input, alerts, failures.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod alerts;
mod entitlement;
mod failures;
mod quarantine;
mod repetition;
mod steering;
mod trouble_codes;

#[path = "../harness/world.rs"]
mod world;
