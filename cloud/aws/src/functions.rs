//! The functions: each a handler around a library function, and the state it keeps between invocations.
//!
//! A state is opened at the first invocation, not at the start: what has to be asked for over the network (the secret,
//! the database) may be away then, and the next invocation opens it again.

pub mod admin;
pub mod archive;
pub mod authorizer;
pub mod enrich;
pub mod feed;
pub mod fleet;
pub mod ingest;
pub mod loader;
pub mod provision;
pub mod steer;
pub mod webhook;
