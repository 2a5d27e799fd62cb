//! Convoy on one machine: broker, bridge, stream, pipeline, rules and API in one process.
//!
//! The rules are those of `convoy-cloud-core`; here are the ports in their single-machine form (a segment log, SQLite,
//! a folder of objects, an embedded MQTT broker) and the tasks that keep things moving.

pub mod archiver;
pub mod broker;
pub mod bus;
pub mod config;
pub mod consumer;
pub mod data_dir;
pub mod database;
pub mod demo;
pub mod event_store;
pub mod fleet_authority;
pub mod inbox;
pub mod mqtt_guard;
pub mod pki;
pub mod provisioner;
pub mod queue;
pub mod retention;
pub mod serve;
pub mod steering;
pub mod stream;
pub mod vehicle_listener;
pub mod webhook_sender;
