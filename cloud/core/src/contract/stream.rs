//! What every [`Stream`] must do.
#![allow(clippy::unwrap_used, reason = "a call that fails is a promise that is broken")]

use convoy_protocol::envelope::ENVELOPE_BYTES_MAX;
use convoy_protocol::id::{Lane, VehicleId};

use super::Run;
use crate::ports::Stream;
use crate::record::{PartitionKey, Record};

/// Records of one partition in this suite.
const RECORDS: usize = 40;

fn record(run: Run, number: usize, payload: Vec<u8>) -> Record {
    Record {
        partition_key: PartitionKey { version: 1, hash: run.bytes("stream") },
        vehicle_id: VehicleId(run.bytes("stream")),
        lane: if number.is_multiple_of(2) { Lane::Fast } else { Lane::Bulk },
        received_us: number as i64 - 3,
        payload,
    }
}

/// What is appended can be read when the append returns: whole, and in the order of its partition. `read` gives
/// everything that is in the stream, oldest first; what other runs wrote is left out here.
pub async fn what_is_appended_can_be_read(
    stream: &dyn Stream,
    run: Run,
    read: impl AsyncFn() -> Vec<Record>,
) {
    let (mut dice, mut appended) = (run.dice(), Vec::new());
    let mine = async || {
        let mut found = read().await;
        found.retain(|record| record.partition_key.hash == run.bytes("stream"));
        // At least once: a repetition right after itself is not against the promise.
        found.dedup();
        found
    };
    stream.append(&[]).await.unwrap();
    assert_eq!(mine().await, []);
    while appended.len() < RECORDS {
        let batch: Vec<_> = (0..1 + dice.below(9))
            .map(|number| {
                let len = [0, 1, 1_000, ENVELOPE_BYTES_MAX][dice.below(4)];
                record(run, appended.len() + number, vec![dice.next() as u8; len])
            })
            .collect();
        stream.append(&batch).await.unwrap();
        appended.extend(batch);
        assert_eq!(mine().await, appended);
    }
}

/// Everything that [`what_is_appended_can_be_read`] appended is there after the stream was closed and opened, before
/// what is appended next.
pub async fn what_was_appended_stays(stream: &dyn Stream, run: Run, read: impl AsyncFn() -> Vec<Record>) {
    let before = read().await;
    assert!(before.len() >= RECORDS, "{} records of {RECORDS} are left", before.len());
    let next = record(run, 1_000_000, b"next".to_vec());
    stream.append(std::slice::from_ref(&next)).await.unwrap();
    let after = read().await;
    assert_eq!((&after[..before.len()], after.last()), (before.as_slice(), Some(&next)));
}
