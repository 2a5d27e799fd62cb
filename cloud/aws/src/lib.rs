//! Convoy on AWS: the ports on its services, the functions behind one bootstrap, and the bridge.
//!
//! The rules are those of `convoy-cloud-core`, the same as on one machine; here is what carries them out. `deployment`
//! is the place to start reading: it makes the ports from the environment.

// The SDK's futures are nested deeply.
#![recursion_limit = "512"]

pub mod backoff;
pub mod bootstrap;
pub mod bridge;
pub mod clients;
pub mod database;
pub mod deployment;
pub mod downlink;
pub mod dynamodb;
pub mod entry;
pub mod entry_calls;
pub mod environment;
pub mod error;
pub mod event;
pub mod eventbridge;
pub mod eventbridge_v2;
pub mod failure;
pub mod functions;
pub mod http;
pub mod kafka;
pub mod keys;
pub mod kinesis;
pub mod logging;
pub mod manifests;
pub mod metrics;
pub mod objects;
pub mod provisioner;
pub mod reports;
pub mod routing;
pub mod sqs;
pub mod stream_batch;
pub mod work_queue;
pub mod workflow;
