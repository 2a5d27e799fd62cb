//! What the cloud sends a vehicle: acknowledgements and requests.
//!
//! A message is one version byte ([`VERSION`]) and postcard. MQTT's own PUBACK means nothing to Convoy: only
//! [`Down::Stored`] and [`Down::Quarantined`] let an envelope leave the spool.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::id::{BootId, EnvelopeKey, Lane, ManifestId};

/// First byte of every downlink message of this form.
pub const VERSION: u8 = 1;
/// Longest downlink message, bytes.
pub const DOWN_BYTES_MAX: usize = 64 * 1024;

/// First 8 bytes of the BLAKE3 hash of a payload: how a payload is named whose header cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PayloadDigest(pub [u8; 8]);

impl PayloadDigest {
    /// The digest of a published payload.
    pub fn of(payload: &[u8]) -> Self {
        let mut digest = [0; 8];
        digest.copy_from_slice(&blake3::hash(payload).as_bytes()[..8]);
        Self(digest)
    }
}

/// A run of envelopes of one boot and lane, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceRange {
    /// The boot.
    pub boot_id: BootId,
    /// The lane.
    pub lane: Lane,
    /// First sequence.
    pub first: u64,
    /// Last sequence.
    pub last: u64,
}

impl SequenceRange {
    /// Is the envelope in the run?
    pub fn contains(&self, key: &EnvelopeKey) -> bool {
        (key.boot_id, key.lane) == (self.boot_id, self.lane)
            && (self.first..=self.last).contains(&key.sequence)
    }
}

/// One message to a vehicle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Down {
    /// These envelopes are in the durable stream; the vehicle may forget them.
    Stored(Vec<SequenceRange>),
    /// This payload is kept in quarantine because its header could not be read; sending it again helps nobody.
    Quarantined(PayloadDigest),
    /// Not now: over a limit. The vehicle keeps what it has and waits.
    Busy {
        /// Milliseconds to wait before the next publish.
        retry_after_ms: u32,
    },
    /// The cloud does not know this manifest: upload it.
    WantManifest(ManifestId),
    /// The campaigns to run: a document as [`crate::desired::seal`] makes it.
    Desired(Vec<u8>),
    /// Send the last value of every collected signal.
    WantSnapshot,
}

/// Why bytes are not a downlink message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DownError {
    /// Another version than [`VERSION`].
    #[error("downlink version {0} is not known here, only version {VERSION}")]
    Version(u8),
    /// Not the encoding of a message.
    #[error("downlink message cannot be read")]
    Encoding,
}

impl Down {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, alloc::vec![VERSION]).expect("a downlink message is plain data")
    }

    /// Reads a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DownError> {
        match bytes {
            [VERSION, body @ ..] => postcard::from_bytes(body).map_err(|_| DownError::Encoding),
            [version, ..] => Err(DownError::Version(*version)),
            [] => Err(DownError::Encoding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_other_versions_are_named() {
        let boot_id = BootId { counter: 1, spool: 2 };
        let down = Down::Stored(alloc::vec![SequenceRange { boot_id, lane: Lane::Fast, first: 3, last: 9 }]);
        assert_eq!(Down::decode(&down.encode()), Ok(down));
        assert_eq!(Down::decode(&[9, 0]), Err(DownError::Version(9)));
        assert_eq!(Down::decode(&[]), Err(DownError::Encoding));
        assert_eq!(Down::decode(&[VERSION, 99]), Err(DownError::Encoding));
    }
}
