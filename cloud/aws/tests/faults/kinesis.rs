//! Kinesis takes a part, nothing, or nothing ever.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use convoy_aws::clients::ATTEMPTS_MAX;
use convoy_aws::kinesis::{KinesisStream, RECORD_BYTES_MAX};
use convoy_cloud_core::ports::{PortError, Stream as _};
use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_protocol::id::{Lane, VehicleId};
use serde_json::{Value, json};

use crate::emulator::{ambient, config};
use crate::fake::{Fake, Reply, Request};

fn records(count: u8) -> Vec<Record> {
    let record = |number| Record {
        partition_key: PartitionKey { version: 1, hash: [number; 16] },
        vehicle_id: VehicleId([number; 16]),
        lane: Lane::Fast,
        received_us: 1,
        payload: vec![number],
    };
    (0..count).map(record).collect()
}

fn stream(fake: &Fake) -> KinesisStream {
    let client = aws_sdk_kinesis::Client::new(&config(&fake.url));
    KinesisStream::new(client, "stream", RECORD_BYTES_MAX, ambient())
}

/// The records of a call.
fn sent(request: &Request) -> Vec<Record> {
    let body = request.json();
    let entries = body["Records"].as_array().unwrap();
    let data = entries.iter().map(|entry| STANDARD.decode(entry["Data"].as_str().unwrap()).unwrap());
    data.map(|data| Record::decode(&data).unwrap()).collect()
}

fn answer(results: impl IntoIterator<Item = bool>) -> Reply {
    let result = |is_taken: bool| -> Value {
        if is_taken {
            json!({ "SequenceNumber": "1", "ShardId": "shardId-0" })
        } else {
            json!({ "ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow down" })
        }
    };
    let results: Vec<_> = results.into_iter().map(result).collect();
    let failed = results.iter().filter(|result| result["ErrorCode"].is_string()).count();
    Reply::Answer(200, json!({ "FailedRecordCount": failed, "Records": results }))
}

#[tokio::test]
async fn only_what_was_not_taken_is_sent_again_and_all_arrives() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (arrived, mut call) = (Arc::clone(&taken), 0);
    let fake = Fake::alone(move |request| {
        call += 1;
        // Every third one at first, then every second one of these, then all.
        let is_taken = |index: usize| match call {
            1 => !index.is_multiple_of(3),
            2 => !index.is_multiple_of(2),
            _ => true,
        };
        let records = sent(request);
        let results: Vec<_> = (0..records.len()).map(is_taken).collect();
        let now = records.into_iter().zip(&results).filter(|(_, is_taken)| **is_taken);
        arrived.lock().unwrap().extend(now.map(|(record, _)| record.payload[0]));
        answer(results)
    })
    .await;
    stream(&fake).append(&records(10)).await.unwrap();
    let calls: Vec<Vec<u8>> = fake
        .requests()
        .iter()
        .map(|request| sent(request).iter().map(|record| record.payload[0]).collect())
        .collect();
    let expected: [&[u8]; 3] = [&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], &[0, 3, 6, 9], &[0, 6]];
    assert_eq!(calls, expected);
    let mut taken = taken.lock().unwrap().clone();
    taken.sort_unstable();
    assert_eq!(taken, (0..10).collect::<Vec<u8>>(), "each once");
}

#[tokio::test]
async fn a_vehicles_records_arrive_in_order_whatever_kinesis_leaves_behind() {
    let taken = Arc::new(Mutex::new(Vec::new()));
    let (arrived, mut call) = (Arc::clone(&taken), 0);
    let fake = Fake::alone(move |request| {
        call += 1;
        let records = sent(request);
        // Turn about: the first, the second, the third of every three.
        let results: Vec<_> = (0..records.len()).map(|index| (index + call) % 3 == 0).collect();
        let now = records.into_iter().zip(&results).filter(|(_, is_taken)| **is_taken);
        arrived.lock().unwrap().extend(now.map(|(record, _)| (record.vehicle_id.0[0], record.payload[0])));
        answer(results)
    })
    .await;
    let mut given = Vec::new();
    for number in 0..12 {
        for mut record in records(4) {
            record.payload = vec![number];
            given.push(record);
        }
    }
    stream(&fake).append(&given).await.unwrap();
    let taken = taken.lock().unwrap();
    for vehicle in 0..4 {
        let of_vehicle: Vec<_> =
            taken.iter().filter(|(of, _)| *of == vehicle).map(|(_, number)| *number).collect();
        assert_eq!(of_vehicle, (0..12).collect::<Vec<u8>>(), "vehicle {vehicle}");
    }
}

#[tokio::test]
async fn a_call_that_fails_as_a_whole_is_made_again() {
    let mut call = 0;
    let fake = Fake::alone(move |request| {
        call += 1;
        match call {
            1 => Reply::error(500, "InternalFailure"),
            2 => Reply::Answer(503, json!("not even an error of the service")),
            3 => Reply::error(400, "ProvisionedThroughputExceededException"),
            _ => answer(sent(request).iter().map(|_| true)),
        }
    })
    .await;
    stream(&fake).append(&records(3)).await.unwrap();
    assert_eq!(fake.requests().iter().map(|request| sent(request).len()).collect::<Vec<_>>(), [3; 4]);
}

#[tokio::test]
async fn a_shard_that_stays_throttled_is_unavailable() {
    let fake = Fake::alone(|request| answer(sent(request).iter().map(|record| record.payload[0] != 1))).await;
    let error = stream(&fake).append(&records(3)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Kinesis is not available: 1 records not taken in 8 tries: Kinesis is not available: \
         ProvisionedThroughputExceededException (200): slow down"
    );
    assert_eq!(
        fake.requests().iter().map(|request| sent(request).len()).collect::<Vec<_>>(),
        [3, 1, 1, 1, 1, 1, 1, 1]
    );
}

#[tokio::test]
async fn a_stream_that_fails_on_and_on_is_unavailable_and_one_that_is_not_there_is_refused() {
    let fake = Fake::alone(|_| Reply::error(500, "InternalFailure")).await;
    let error = stream(&fake).append(&records(1)).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(fake.requests().len(), ATTEMPTS_MAX as usize);
    let fake = Fake::alone(|_| Reply::error(400, "ResourceNotFoundException")).await;
    let error = stream(&fake).append(&records(1)).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }), "{error}");
    assert_eq!(fake.requests().len(), 1, "not tried again");
}
