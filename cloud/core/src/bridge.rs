//! The bridge's decisions: what becomes of an MQTT publish, and what is said back to the vehicle.
//!
//! The bridge refuses nothing: whatever a vehicle publishes goes into the durable stream and is acknowledged after
//! that, also what turns out to be garbage, which ingest sets aside. So a vehicle never sends the same garbage for ever.

use std::collections::BTreeMap;

use convoy_protocol::downlink::{Down, PayloadDigest, SequenceRange};
use convoy_protocol::envelope::Envelope;
use convoy_protocol::id::{EnvelopeKey, VehicleId};
use convoy_protocol::topic;

use crate::record::{PartitionKey, Record};
use crate::snapshot::Snapshot;

/// Version of the rule below.
const PARTITION_KEY_VERSION: u16 = 1;
/// Buckets over which one customer's vehicles are spread.
const BUCKETS: u8 = 16;

/// Where a vehicle's records go: vehicles of one customer lie together, so that later batches are full of one customer.
///
/// So a vehicle with another owner goes on in another shard, and between the two nothing keeps the order: what was sent
/// before may be judged after, and then opens no conditions any more.
pub fn partition_key(snapshot: &Snapshot, vehicle_id: VehicleId) -> PartitionKey {
    let bucket = blake3::hash(&vehicle_id.0).as_bytes()[0] % BUCKETS;
    let mut hasher = blake3::Hasher::new();
    match snapshot.owner(vehicle_id) {
        Some(customer) => hasher.update(customer.as_str().as_bytes()),
        None => hasher.update(b"nobody"),
    };
    hasher.update(&[bucket]);
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    PartitionKey { version: PARTITION_KEY_VERSION, hash }
}

/// The record of a publish; `None` where the topic names no vehicle and lane.
pub fn record(snapshot: &Snapshot, topic_name: &str, payload: Vec<u8>, now_us: i64) -> Option<Record> {
    let topic::Up { vehicle_id, lane, .. } = topic::parse_up(topic_name)?;
    Some(Record {
        partition_key: partition_key(snapshot, vehicle_id),
        vehicle_id,
        lane,
        received_us: now_us,
        payload,
    })
}

/// What to say to vehicles about records that are durable now: sequences of one boot and lane as ranges.
pub fn acks(records: &[Record]) -> Vec<(VehicleId, Down)> {
    let mut keys: BTreeMap<VehicleId, Vec<EnvelopeKey>> = BTreeMap::new();
    let mut downs = Vec::new();
    for record in records {
        // A payload damaged on its way must not be acknowledged by the identity it seems to carry: the vehicle still
        // has the good copy. It is named by its digest, which matches only if the vehicle's own copy is the damaged one.
        match Envelope::parse(&record.payload) {
            Ok(envelope) if envelope.header.vehicle_id == record.vehicle_id => {
                keys.entry(record.vehicle_id).or_default().push(envelope.header.key());
            }
            _ => {
                let digest = PayloadDigest::of(&record.payload);
                downs.push((record.vehicle_id, Down::Quarantined(digest)));
            }
        }
    }
    for (vehicle_id, mut keys) in keys {
        keys.sort_unstable();
        keys.dedup();
        downs.push((vehicle_id, Down::Stored(ranges(&keys))));
    }
    downs
}

fn ranges(sorted: &[EnvelopeKey]) -> Vec<SequenceRange> {
    let mut ranges: Vec<SequenceRange> = Vec::new();
    for key in sorted {
        match ranges.last_mut() {
            Some(range)
                if (range.boot_id, range.lane) == (key.boot_id, key.lane)
                    && range.last.checked_add(1) == Some(key.sequence) =>
            {
                range.last = key.sequence;
            }
            _ => ranges.push(SequenceRange {
                boot_id: key.boot_id,
                lane: key.lane,
                first: key.sequence,
                last: key.sequence,
            }),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use convoy_protocol::envelope::{EnvelopeWriter, Header};
    use convoy_protocol::id::{BootId, Lane};
    use convoy_protocol::time::ClockQuality;

    fn payload(vehicle_id: VehicleId, sequence: u64) -> Vec<u8> {
        let header = Header {
            vehicle_id,
            boot_id: BootId { counter: 1, spool: 2 },
            lane: Lane::Bulk,
            sequence,
            base_us: 0,
            monotonic_offset_us: 0,
            clock: ClockQuality::Rtc,
            manifest_id: None,
            campaign_id: None,
        };
        EnvelopeWriter::new(&header).finish().unwrap()
    }

    #[test]
    fn consecutive_sequences_are_acknowledged_as_one_range_and_garbage_by_its_digest() {
        let vehicle_id = VehicleId([7; 16]);
        let topic = topic::up(vehicle_id, Lane::Bulk);
        let snapshot = Snapshot::default();
        let mut payloads: Vec<_> = [4, 2, 3, 9, 3].map(|sequence| payload(vehicle_id, sequence)).into();
        payloads.push(b"garbage".to_vec());
        let records: Vec<_> =
            payloads.into_iter().map(|payload| record(&snapshot, &topic, payload, 1).unwrap()).collect();
        let range = |first, last| SequenceRange {
            boot_id: BootId { counter: 1, spool: 2 },
            lane: Lane::Bulk,
            first,
            last,
        };
        assert_eq!(
            acks(&records),
            [
                (vehicle_id, Down::Quarantined(PayloadDigest::of(b"garbage"))),
                (vehicle_id, Down::Stored(vec![range(2, 4), range(9, 9)])),
            ]
        );
    }

    #[test]
    fn a_payload_damaged_on_its_way_is_not_acknowledged_as_the_envelope_it_was() {
        let vehicle_id = VehicleId([7; 16]);
        let mut damaged = payload(vehicle_id, 4);
        *damaged.last_mut().unwrap() ^= 1;
        let foreign = payload(VehicleId([8; 16]), 4);
        for bad in [damaged, foreign] {
            let topic = topic::up(vehicle_id, Lane::Bulk);
            let records = [record(&Snapshot::default(), &topic, bad.clone(), 1).unwrap()];
            assert_eq!(acks(&records), [(vehicle_id, Down::Quarantined(PayloadDigest::of(&bad)))]);
        }
    }

    #[test]
    fn a_topic_of_no_vehicle_makes_no_record() {
        assert_eq!(record(&Snapshot::default(), "convoy/v1/x/up/bulk", Vec::new(), 0), None);
    }
}
