//! Convoy on AWS.

pub mod backoff;
pub mod clients;
pub mod downlink;
pub mod dynamodb;
pub mod entry;
pub mod entry_calls;
pub mod error;
pub mod eventbridge;
pub mod eventbridge_v2;
pub mod kafka;
pub mod kinesis;
pub mod objects;
pub mod provisioner;
pub mod sqs;
