//! What two programs of Convoy must agree on.
//!
//! | module | agreed between | form |
//! |---|---|---|
//! | [`frame`] | dongle, agent | a CAN frame in memory |
//! | [`link`] | dongle, agent | numbered frames and commands: postcard + CRC-32C + COBS on a serial line |
//! | [`stuffing`] | dongle, agent | COBS |
//! | [`envelope`] | agent, bridge, ingest | magic, version, header, typed sections, CRC-32C |
//! | [`columns`], [`compact`] | agent, ingest | samples by column, inside an envelope section |
//! | [`manifest`] | agent, ingest | what a raw signal value means |
//! | [`campaign`], [`expression`] | cloud, agent | what to collect, how often and when |
//! | [`desired`] | cloud, agent | the document that tells a vehicle its campaigns |
//! | [`report`] | agent, cloud | what became of them |
//! | [`dtc`], [`checkin`] | agent, ingest | bodies of further envelope sections |
//! | [`downlink`] | bridge, agent | acknowledgements and requests on `down/` topics |
//! | [`topic`] | agent, bridge, broker ACLs | MQTT topic names |
//! | [`id`], [`time`] | everyone | newtypes |
//!
//! The crate is `no_std`; what needs a heap is behind feature `alloc`, zstd behind feature `zstd`.
//! A vehicle in the field is years behind the cloud: bytes once released never change meaning
//! (`tests/versioning` holds them), new content gets a new section kind or a new version.
#![cfg_attr(not(test), no_std)]
#![warn(missing_docs)]

#[cfg(feature = "alloc")]
extern crate alloc;

#[cfg(feature = "alloc")]
pub mod campaign;
#[cfg(feature = "alloc")]
pub mod checkin;
#[cfg(feature = "alloc")]
pub mod columns;
#[cfg(feature = "alloc")]
pub mod compact;
#[cfg(feature = "alloc")]
pub mod desired;
#[cfg(feature = "alloc")]
pub mod downlink;
pub mod dtc;
pub mod envelope;
#[cfg(feature = "alloc")]
pub mod expression;
pub mod firmware;
pub mod frame;
pub mod id;
pub mod link;
#[cfg(feature = "alloc")]
pub mod manifest;
#[cfg(feature = "alloc")]
pub mod report;
pub mod stuffing;
pub mod time;
#[cfg(feature = "alloc")]
pub mod topic;
#[cfg(feature = "alloc")]
mod varint;

/// CRC-32C (Castagnoli, iSCSI), the checksum of every Convoy wire format.
#[cfg(feature = "alloc")]
pub(crate) static CRC32C: crc::Crc<u32, crc::Table<16>> =
    crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISCSI);
/// The same with a table of 1 KiB in place of 16: on a microcontroller there is less flash than time.
#[cfg(not(feature = "alloc"))]
pub(crate) static CRC32C: crc::Crc<u32, crc::Table<1>> =
    crc::Crc::<u32, crc::Table<1>>::new(&crc::CRC_32_ISCSI);
