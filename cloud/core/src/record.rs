//! A record of the stream: one MQTT publish of a vehicle with what the bridge knew about it.

use convoy_protocol::id::{Lane, VehicleId};
use serde::{Deserialize, Serialize};

/// First byte of an encoded record.
const RECORD_VERSION: u8 = 1;

/// One published payload, whatever is in it: the bridge refuses nothing, ingest decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Records of one key keep their order where the stream keeps order at all.
    pub partition_key: PartitionKey,
    /// The vehicle, from the topic.
    pub vehicle_id: VehicleId,
    /// The lane, from the topic.
    pub lane: Lane,
    /// When the bridge received it, microseconds since the Unix epoch, UTC.
    pub received_us: i64,
    /// The payload as it was published.
    pub payload: Vec<u8>,
}

/// Where a record goes in the stream: a version of the key's rule and 128 bits of hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PartitionKey {
    /// Version of the map from vehicles to keys; a vehicle keeps its key inside one.
    pub version: u16,
    /// blake3(primary customer, bucket of the vehicle), first 16 bytes.
    pub hash: [u8; 16],
}

/// Bytes that are not a stream record of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stream record cannot be read: {0}")]
pub struct RecordError(&'static str);

impl Record {
    /// Its bytes in the stream and in the archive.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![RECORD_VERSION]).expect("a record is plain data")
    }

    /// Reads bytes of the stream.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        match bytes {
            [RECORD_VERSION, body @ ..] => {
                postcard::from_bytes(body).map_err(|_| RecordError("not the encoding of a record"))
            }
            [_, ..] => Err(RecordError("a version not known here")),
            [] => Err(RecordError("it is empty")),
        }
    }
}
