//! The Data-as-a-Service rules of Convoy, as functions over a few ports.
//!
//! The way of an event: [`bridge`] (MQTT publish to stream record) -> [`ingest`] (validate, archive, store, default
//! bus) -> [`enrich`] (one event per entitled customer, delivery bus) -> [`rules`] (queue, feed, webhook) -> [`api`].
//! Onboarding: [`api`] (admin) -> [`mod@reference`] -> [`provision`] -> [`snapshot`], which the way above reads.
//!
//! Nothing here opens a socket or a file, reads a clock or rolls dice: [`ports`] stand for the services outside,
//! [`ambient`] for time and randomness. One machine and AWS run this same code.
#![warn(missing_docs)]

pub mod alerts;
pub mod ambient;
pub mod api;
pub mod archive;
pub mod bridge;
pub mod bus;
pub mod condition;
#[cfg(feature = "contract")]
pub mod contract;
pub mod counters;
pub mod credential;
pub mod cursor;
pub mod dtc_texts;
pub mod enrich;
pub mod enrol;
pub mod event;
pub mod identity;
pub mod import;
pub mod ingest;
pub mod ledger;
pub mod mask;
pub mod ports;
pub mod provision;
pub mod quarantine;
pub mod record;
pub mod reference;
pub mod rules;
pub mod snapshot;
pub mod steering;
pub mod webhook;
