//! DynamoDB throttles, conflicts and refuses.

use std::collections::HashSet;
use std::sync::Arc;

use convoy_aws::clients::{self, ATTEMPTS_MAX};
use convoy_aws::dynamodb::{DynamoEventStore, Tables};
use convoy_cloud_core::ports::{EventStore as _, Novelty, PortError, SignalState, StoredEnvelope};
use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, ManifestId, VehicleId};
use object_store::memory::InMemory;
use serde_json::json;

use crate::emulator::{ambient, config};
use crate::fake::{Fake, Reply};

fn store(fake: &Fake) -> DynamoEventStore {
    let [events, state, feed, vehicles] = ["events", "state", "feed", "vehicles"].map(str::to_owned);
    let client = clients::dynamodb(&config(&fake.url));
    let tables = Tables { events, state, feed, vehicles };
    DynamoEventStore::new(client, tables, Arc::new(InMemory::new()), 30, ambient())
}

fn states() -> [(VehicleId, Vec<SignalState>); 1] {
    let (path, unit) = ("Vehicle.Speed".to_owned(), "km/h".to_owned());
    [(VehicleId([1; 16]), vec![SignalState { path, unit, value: Some(1.0), sampled_us: 1, received_us: 2 }])]
}

#[tokio::test]
async fn what_is_throttled_is_tried_again_to_the_end_and_then_unavailable() {
    for code in ["ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"] {
        let fake = Fake::alone(move |_| Reply::error(400, code)).await;
        let error = store(&fake).put_state(&states()).await.unwrap_err();
        assert!(error.is_transient() && error.to_string().contains(code), "{error}");
        assert_eq!(fake.requests().len(), ATTEMPTS_MAX as usize);
    }
}

#[tokio::test]
async fn answers_that_get_lost_do_not_use_up_the_tries_of_a_process() {
    let mut known = HashSet::new();
    let fake = Fake::alone(move |request| {
        let is_event = request.operation() == "PutItem" && request.json()["TableName"] == "events";
        match is_event {
            // It is stored, and nobody hears of it; then it is there already.
            true if known.insert(request.json()["Item"]["sk"].to_string()) => {
                Reply::error(500, "InternalServerError")
            }
            true => Reply::error(400, "ConditionalCheckFailedException"),
            false => Reply::Answer(200, json!({})),
        }
    })
    .await;
    let envelope = |sequence| StoredEnvelope {
        vehicle_id: VehicleId([1; 16]),
        key: EnvelopeKey { boot_id: BootId { counter: 1, spool: 1 }, lane: Lane::Bulk, sequence },
        first_us: 1,
        last_us: 1,
        received_us: 2,
        bytes: vec![0],
    };
    // The SDK's own tries end at the fiftieth.
    let envelopes: Vec<_> = (0..300).map(envelope).collect();
    assert_eq!(store(&fake).put_events(&envelopes).await.unwrap(), vec![Novelty::Known; 300]);
}

#[tokio::test]
async fn what_is_wrong_is_refused_at_once() {
    let fake = Fake::alone(|_| Reply::error(400, "ValidationException")).await;
    let error = store(&fake).put_state(&states()).await.unwrap_err();
    let expected = "DynamoDB refused: ValidationException (400): as the script says";
    assert_eq!(error.to_string(), expected);
    assert_eq!(fake.requests().len(), 1);
}

#[tokio::test]
async fn a_writer_that_loses_every_race_gives_up_and_says_so() {
    let fake = Fake::alone(|request| match request.operation() {
        "PutItem" => Reply::error(400, "ConditionalCheckFailedException"),
        _ => Reply::Answer(200, json!({})),
    })
    .await;
    let error = store(&fake).put_state(&states()).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("24 writers were faster"), "{error}");
    let puts = fake.requests().iter().filter(|request| request.operation() == "PutItem").count();
    assert_eq!(puts, 24);
}

#[tokio::test]
async fn a_transaction_in_conflict_is_tried_again_and_a_full_one_is_refused() {
    let cancelled = |codes: [&str; 3]| {
        let reasons = codes.map(|code| json!({ "Code": code }));
        let kind = "TransactionCanceledException";
        Reply::Answer(400, json!({ "__type": kind, "message": "cancelled", "CancellationReasons": reasons }))
    };
    let record = Record {
        partition_key: PartitionKey { version: 1, hash: [1; 16] },
        vehicle_id: VehicleId([1; 16]),
        lane: Lane::Fast,
        received_us: 1,
        payload: vec![1],
    };
    let mut call = 0;
    let fake = Fake::alone(move |_| {
        call += 1;
        match call {
            1 => cancelled(["None", "TransactionConflict", "None"]),
            2 => cancelled(["ThrottlingError", "None", "None"]),
            _ => Reply::Answer(200, json!({})),
        }
    })
    .await;
    store(&fake).park(ManifestId([2; 16]), &record).await.unwrap();
    assert_eq!(fake.requests().len(), 3);
    let fake = Fake::alone(move |_| cancelled(["None", "ConditionalCheckFailed", "None"])).await;
    let error = store(&fake).park(ManifestId([2; 16]), &record).await.unwrap_err();
    assert!(matches!(error, PortError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("100000 records wait already"), "{error}");
    let fake = Fake::alone(move |_| cancelled(["ConditionalCheckFailed", "None", "None"])).await;
    store(&fake).park(ManifestId([2; 16]), &record).await.unwrap();
}
