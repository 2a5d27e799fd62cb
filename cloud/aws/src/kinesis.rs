//! The durable stream on Kinesis Data Streams.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::operation::put_records::PutRecordsOutput;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::ports::{PortError, Stream};
use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_protocol::id::VehicleId;

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

/// A record on its way.
struct Waiting {
    vehicle_id: VehicleId,
    entry: PutRecordsRequestEntry,
    /// How often Kinesis left it behind.
    refusals: u32,
}

/// The stream.
///
/// A vehicle's records are in order. `PutRecords` promises no order within a call, and one that Kinesis takes a part of
/// breaks it for certain; so a call holds at most one record of each vehicle, and what it left behind is in the next.
/// Fleets do not notice; one vehicle alone is as fast as a call is.
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

    /// Sends records until all of them are taken, or until one was left behind too often.
    async fn put(&self, mut waiting: VecDeque<Waiting>) -> Result<(), PortError> {
        while !waiting.is_empty() {
            let call = next_call(&mut waiting);
            let entries = call.iter().map(|item| item.entry.clone()).collect();
            let request = self.client.put_records().stream_name(&self.name).set_records(Some(entries));
            let output = request.send().await.map_err(|error| port_error(SERVICE, &error))?;
            let left = left_behind(call, &output)?;
            let Some(refusals) = left.iter().map(|item| item.refusals).max() else { continue };
            if !BACKOFF.pause(refusals, &self.ambient).await {
                let (left, reason) = (left.len(), first_failure(&output));
                return Err(unavailable(
                    SERVICE,
                    format!("{left} records not taken in {refusals} tries: {reason}"),
                ));
            }
            for item in left.into_iter().rev() {
                waiting.push_front(item);
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

/// The records that were not taken, in their order.
fn left_behind(call: Vec<Waiting>, output: &PutRecordsOutput) -> Result<Vec<Waiting>, PortError> {
    let results = output.records();
    if results.len() != call.len() {
        let reason = format!("{} results for {} records", results.len(), call.len());
        return Err(unavailable(SERVICE, reason));
    }
    let failed = call.into_iter().zip(results).filter(|(_, result)| result.error_code().is_some());
    Ok(failed.map(|(item, _)| Waiting { refusals: item.refusals + 1, ..item }).collect())
}

/// Takes what the next call holds: the first record of each vehicle, as many as fit. At least one, however large.
fn next_call(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let (mut call, mut rest) = (Vec::new(), VecDeque::with_capacity(waiting.len()));
    let (mut vehicles, mut bytes) = (HashSet::new(), 0);
    while let Some(item) = waiting.pop_front() {
        let size = bytes_of(&item.entry);
        let is_full =
            call.len() == RECORDS_PER_CALL_MAX || (!call.is_empty() && bytes + size > BYTES_PER_CALL_MAX);
        if is_full {
            rest.push_back(item);
            break;
        }
        if vehicles.insert(item.vehicle_id) {
            bytes += size;
            call.push(item);
        } else {
            rest.push_back(item);
        }
    }
    rest.append(waiting);
    *waiting = rest;
    call
}

#[async_trait]
impl Stream for KinesisStream {
    async fn append(&self, records: &[Record]) -> Result<(), PortError> {
        // All are looked at before any is sent: what is refused has left nothing behind.
        let item = |record: &Record| {
            let entry = self.entry(record)?;
            Ok(Waiting { vehicle_id: record.vehicle_id, entry, refusals: 0 })
        };
        self.put(records.iter().map(item).collect::<Result<_, PortError>>()?).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(items: impl IntoIterator<Item = (u16, usize)>) -> VecDeque<Waiting> {
        let item = |(vehicle, bytes): (u16, usize)| {
            let data = Blob::new(vec![0; bytes]);
            let mut vehicle_id = VehicleId([0; 16]);
            vehicle_id.0[..2].copy_from_slice(&vehicle.to_be_bytes());
            let entry = PutRecordsRequestEntry::builder().data(data).partition_key("0123456789abcdef");
            Waiting { vehicle_id, entry: entry.build().unwrap(), refusals: 0 }
        };
        items.into_iter().map(item).collect()
    }

    /// Vehicle and bytes of the records in each call.
    fn calls(mut waiting: VecDeque<Waiting>) -> Vec<Vec<(u16, usize)>> {
        let mut calls = Vec::new();
        while !waiting.is_empty() {
            let call = next_call(&mut waiting);
            let plain = |item: &Waiting| {
                let [high, low, ..] = item.vehicle_id.0;
                (u16::from_be_bytes([high, low]), item.entry.data().as_ref().len())
            };
            calls.push(call.iter().map(plain).collect());
        }
        calls
    }

    #[test]
    fn a_call_takes_no_more_than_its_records_and_its_bytes() {
        let sizes = |items: Vec<(u16, usize)>| calls(waiting(items)).iter().map(Vec::len).collect::<Vec<_>>();
        let of = |count: u16, bytes| (0..count).map(|vehicle| (vehicle, bytes)).collect::<Vec<_>>();
        assert_eq!(sizes(vec![]), [0; 0]);
        assert_eq!(sizes(of(1_001, 1)), [500, 500, 1]);
        let fifth = BYTES_PER_CALL_MAX / 5 - 16;
        assert_eq!(sizes(of(6, fifth)), [5, 1], "five fit to the byte");
        assert_eq!(sizes(of(6, fifth + 1)), [4, 2]);
        assert_eq!(sizes(vec![(0, 2 * BYTES_PER_CALL_MAX), (1, 1)]), [1, 1], "a larger limit a record");
    }

    #[test]
    fn records_of_a_vehicle_are_in_different_calls_and_in_order() {
        let calls = calls(waiting([(1, 11), (1, 12), (2, 21), (1, 13), (3, 31), (2, 22)]));
        assert_eq!(calls, [vec![(1, 11), (2, 21), (3, 31)], vec![(1, 12), (2, 22)], vec![(1, 13)]]);
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
