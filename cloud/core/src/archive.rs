//! The raw archive: stream records as they came, many in one compressed object, kept long-term.
//!
//! An object is named by the hour its first record was received and by that record's place in the stream, so writing
//! it again after a crash replaces it with itself.

use std::sync::Arc;

use convoy_protocol::envelope::Envelope;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::ambient::civil_from_days;
use crate::ledger::{LedgerEntry, LedgerRange, Outcome, merged};
use crate::ports::PortError;
use crate::record::Record;

/// An object is closed at this size before compression, bytes.
pub const OBJECT_BYTES_TARGET: usize = 8 * 1024 * 1024;

/// Bytes that are not an archive object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("archive object is damaged at byte {0}")]
pub struct ArchiveError(pub usize);

/// Name of the object that begins with the record at a place in the stream, `00000000000000000042` or
/// `shard-sequence`: `raw/v1/2026/11/24/03/00000000000000000042.rec.zst`.
pub fn object_path(place: &str, received_us: i64) -> Path {
    let hours = received_us.div_euclid(3_600_000_000);
    let (year, month, day) = civil_from_days(hours.div_euclid(24));
    let hour = hours.rem_euclid(24);
    Path::from(format!("raw/v1/{year:04}/{month:02}/{day:02}/{hour:02}/{place}.rec.zst"))
}

/// The content of an object before compression: each record with its length (u32, little endian) before it.
pub fn pack<'a>(records: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        let len = u32::try_from(record.len()).expect("a record is far shorter than 4 GiB");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(record);
    }
    out
}

/// The records of an object's decompressed content.
pub fn unpack(mut content: &[u8]) -> Result<Vec<Record>, ArchiveError> {
    let total = content.len();
    let mut records = Vec::new();
    while !content.is_empty() {
        let at = total - content.len();
        let (len, rest) = content.split_first_chunk::<4>().ok_or(ArchiveError(at))?;
        let (record, rest) =
            rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(ArchiveError(at))?;
        records.push(Record::decode(record).map_err(|_| ArchiveError(at))?);
        content = rest;
    }
    Ok(records)
}

/// What to tell the ledger of archived records; garbage has no identity and no entry.
pub fn ledger_entries<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<LedgerEntry> {
    let entry = |record: &Record| {
        let header = Envelope::parse(&record.payload).ok()?.header;
        let range = LedgerRange::one(header.key(), Outcome::Archived);
        (header.vehicle_id == record.vehicle_id).then_some((record.vehicle_id, range))
    };
    merged(records.into_iter().filter_map(entry).collect())
}

/// Writes one object; when it returns, the object is kept.
pub async fn write(
    objects: &Arc<dyn ObjectStore>,
    place: &str,
    received_us: i64,
    compressed: Vec<u8>,
) -> Result<(), PortError> {
    objects
        .put(&object_path(place, received_us), compressed.into())
        .await
        .map(|_| ())
        .map_err(|error| PortError::Unavailable { service: "object store", reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::PartitionKey;
    use convoy_protocol::id::{Lane, VehicleId};

    #[test]
    fn object_names_sort_by_hour_and_place() {
        let path = object_path("00000000000000000042", 1_635_188_455_020_850);
        assert_eq!(path.as_ref(), "raw/v1/2021/10/25/19/00000000000000000042.rec.zst");
    }

    #[test]
    fn packed_records_come_back_and_a_cut_object_is_named() {
        let record = Record {
            partition_key: PartitionKey { version: 1, hash: [2; 16] },
            vehicle_id: VehicleId([3; 16]),
            lane: Lane::Bulk,
            received_us: 4,
            payload: vec![5; 10],
        };
        let bytes = record.encode();
        let content = pack([bytes.as_slice(), bytes.as_slice()]);
        assert_eq!(unpack(&content), Ok(vec![record.clone(), record]));
        assert_eq!(unpack(&content[..content.len() - 1]), Err(ArchiveError(bytes.len() + 4)));
    }
}
