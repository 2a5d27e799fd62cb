//! The durable stream on Kinesis Data Streams.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::put_records::PutRecordsOutput;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::ports::{PortError, Stream};
use convoy_cloud_core::record::{PartitionKey, Record};

use crate::backoff::Backoff;
use crate::error::{answered, port_error, refused, unavailable};

const SERVICE: &str = "Kinesis";
/// Records in one call at most. AWS's limit.
const RECORDS_PER_CALL_MAX: usize = 500;
/// Data and partition keys of one call at most, bytes. AWS takes 10 MiB today; 5 MiB is what every region and emulator
/// always took, and a call of that size takes long enough.
const BYTES_PER_CALL_MAX: usize = 5 << 20;
/// Data and partition key of one record at most, bytes, unless told otherwise. A stream can be set to take up to
/// 10 MiB; this is what it takes when nobody does.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// For records that a call left behind, which is how throttling of a shard shows.
const BACKOFF: Backoff =
    Backoff { attempts_max: 8, first: Duration::from_millis(100), longest: Duration::from_secs(2) };

/// The stream.
///
/// Records of one call are in order within their partition key, unless Kinesis took a part of them only: what it left
/// behind is sent again alone and then lies behind later records of its key. Consumers order by envelope identity.
#[derive(Clone)]
pub struct KinesisStream {
    client: Client,
    name: String,
    record_bytes_max: usize,
    ambient: Ambient,
}

impl KinesisStream {
    /// The stream of this name. `record_bytes_max` is what it takes, data and partition key of one record together;
    /// [`RECORD_BYTES_MAX`] unless it was set to more.
    pub fn new(client: Client, name: impl Into<String>, record_bytes_max: usize, ambient: Ambient) -> Self {
        Self { client, name: name.into(), record_bytes_max, ambient }
    }

    fn entry(&self, record: &Record) -> Result<PutRecordsRequestEntry, PortError> {
        let (data, key) = (record.encode(), partition_key(record.partition_key));
        let (bytes, limit) = (data.len() + key.len(), self.record_bytes_max);
        if bytes > limit {
            let reason = format!("a record of {bytes} bytes, the stream takes {limit}");
            return Err(refused(SERVICE, reason));
        }
        let entry = PutRecordsRequestEntry::builder().data(Blob::new(data)).partition_key(key).build();
        entry.map_err(|error| refused(SERVICE, error.to_string()))
    }

    /// Sends a batch until all of it is taken or the tries are used up.
    async fn put(&self, mut entries: Vec<PutRecordsRequestEntry>) -> Result<(), PortError> {
        for attempt in 1.. {
            let call = self.client.put_records().stream_name(&self.name).set_records(Some(entries.clone()));
            let output = call.send().await.map_err(|error| port_error(SERVICE, &error))?;
            let reason = first_failure(&output);
            entries = left_behind(entries, &output)?;
            if entries.is_empty() {
                break;
            }
            if !BACKOFF.pause(attempt, &self.ambient).await {
                let left = entries.len();
                return Err(unavailable(
                    SERVICE,
                    format!("{left} records not taken in {attempt} tries: {reason}"),
                ));
            }
        }
        Ok(())
    }
}

/// The hash alone, hex: its version does not move a record to another shard.
fn partition_key(key: PartitionKey) -> String {
    let mut text = String::with_capacity(2 * key.hash.len());
    for byte in key.hash {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    text
}

fn first_failure(output: &PutRecordsOutput) -> String {
    let failed = output.records().iter().find(|result| result.error_code().is_some());
    failed.map_or_else(String::new, |result| {
        answered(SERVICE, 200, result.error_code(), result.error_message()).to_string()
    })
}

/// What an entry counts for, bytes.
fn bytes_of(entry: &PutRecordsRequestEntry) -> usize {
    entry.data().as_ref().len() + entry.partition_key().map_or(0, str::len)
}

/// The entries that were not taken, in their order.
fn left_behind(
    entries: Vec<PutRecordsRequestEntry>,
    output: &PutRecordsOutput,
) -> Result<Vec<PutRecordsRequestEntry>, PortError> {
    let results = output.records();
    if results.len() != entries.len() {
        let reason = format!("{} results for {} records", results.len(), entries.len());
        return Err(unavailable(SERVICE, reason));
    }
    let failed = entries.into_iter().zip(results).filter(|(_, result)| result.error_code().is_some());
    Ok(failed.map(|(entry, _)| entry).collect())
}

/// Cuts entries into batches that one call takes, in order.
fn batches(entries: Vec<PutRecordsRequestEntry>) -> Vec<Vec<PutRecordsRequestEntry>> {
    let mut batches: Vec<Vec<PutRecordsRequestEntry>> = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        let size = bytes_of(&entry);
        match batches.last_mut() {
            Some(batch) if batch.len() < RECORDS_PER_CALL_MAX && bytes + size <= BYTES_PER_CALL_MAX => {
                bytes += size;
                batch.push(entry);
            }
            _ => {
                bytes = size;
                batches.push(vec![entry]);
            }
        }
    }
    batches
}

#[async_trait]
impl Stream for KinesisStream {
    async fn append(&self, records: &[Record]) -> Result<(), PortError> {
        // All are looked at before any is sent: what is refused has left nothing behind.
        let entries: Vec<_> = records.iter().map(|record| self.entry(record)).collect::<Result<_, _>>()?;
        // One after the other: a key may be in each of them.
        for batch in batches(entries) {
            self.put(batch).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(bytes: usize) -> PutRecordsRequestEntry {
        let data = Blob::new(vec![0; bytes]);
        PutRecordsRequestEntry::builder().data(data).partition_key("0123456789abcdef").build().unwrap()
    }

    #[test]
    fn a_call_takes_no_more_than_its_records_and_its_bytes() {
        let sizes = |entries: Vec<_>| batches(entries).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes(vec![]), [0; 0]);
        assert_eq!(sizes(vec![entry(1); 1_001]), [500, 500, 1]);
        let fifth = BYTES_PER_CALL_MAX / 5 - 16;
        assert_eq!(sizes(vec![entry(fifth); 6]), [5, 1], "five fit to the byte");
        assert_eq!(sizes(vec![entry(fifth + 1); 6]), [4, 2]);
        assert_eq!(sizes(vec![entry(2 * BYTES_PER_CALL_MAX), entry(1)]), [1, 1], "a larger limit a record");
    }

    #[test]
    fn partition_key_is_the_hash_in_hex() {
        let hash = std::array::from_fn(|index| index as u8 * 16 + 1);
        assert_eq!(
            partition_key(PartitionKey { version: 7, hash }),
            "0111213141516171 8191a1b1c1d1e1f1".replace(' ', "")
        );
    }
}
