//! What both homes of the cloud do with the network in the same way: MQTT to and from vehicles, webhooks to customers.
//!
//! The decisions are `convoy-cloud-core`'s; here are the sockets, the clock and the keys around them.

pub mod ambient;
pub mod broker_url;
pub mod campaign_signer;
pub mod mqtt;
pub mod webhook_sender;
