//! Convoy on AWS.

pub mod backoff;
pub mod clients;
pub mod dynamodb;
pub mod error;
pub mod kafka;
pub mod kinesis;
pub mod objects;
