//! The HTTP API, through its router, as clients and attackers use it.
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod access;
mod onboarding;
mod reading;
mod site;

#[path = "../harness/world.rs"]
mod world;
