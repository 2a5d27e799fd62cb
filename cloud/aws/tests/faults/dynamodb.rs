//! DynamoDB throttles, conflicts and refuses.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

use convoy_aws::clients::{ATTEMPTS_MAX, Http, sdk_config};
use convoy_aws::dynamodb::{Client, DynamoEventStore, Tables};
use convoy_cloud_core::ports::{EventStore as _, Novelty, PortError, SignalState, StoredEnvelope};
use convoy_cloud_core::record::{PartitionKey, Record};
use convoy_protocol::id::{BootId, EnvelopeKey, Lane, ManifestId, VehicleId};
use object_store::memory::InMemory;
use serde_json::json;

use crate::emulator::{REGION, ambient, config, place};
use crate::fake::{Fake, Reply};
use crate::signature::signed_headers;

fn store(fake: &Fake) -> DynamoEventStore {
    store_of(&config(&fake.url))
}

fn store_of(config: &aws_config::SdkConfig) -> DynamoEventStore {
    let [events, state, feed, vehicles] = ["events", "state", "feed", "vehicles"].map(str::to_owned);
    let client = Client::new(config, Http::default(), ambient()).unwrap();
    let tables = Tables { events, state, feed, vehicles };
    DynamoEventStore::new(client, tables, Arc::new(InMemory::new()), 30, ambient())
}

fn states() -> [(VehicleId, Vec<SignalState>); 1] {
    let (path, unit) = ("Vehicle.Speed".to_owned(), "km/h".to_owned());
    [(VehicleId([1; 16]), vec![SignalState { path, unit, value: Some(1.0), sampled_us: 1, received_us: 2 }])]
}

fn record() -> Record {
    Record {
        partition_key: PartitionKey { version: 1, hash: [1; 16] },
        vehicle_id: VehicleId([1; 16]),
        lane: Lane::Fast,
        received_us: 1,
        payload: vec![1],
    }
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
    let record = record();
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

/// Gives other credentials each time.
#[derive(Debug, Clone, Default)]
struct Rotating(Arc<AtomicUsize>);

impl Rotating {
    fn key(number: usize) -> String {
        format!("AKID{number}")
    }

    fn secret(number: usize) -> String {
        format!("secret/{number}")
    }
}

impl ProvideCredentials for Rotating {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let number = self.0.fetch_add(1, Ordering::Relaxed);
        let (key, secret, token) = (Self::key(number), Self::secret(number), format!("token{number}"));
        future::ProvideCredentials::ready(Ok(Credentials::new(key, secret, Some(token), None, "rotating")))
    }
}

#[tokio::test]
async fn requests_are_signed_and_credentials_that_ended_are_asked_for_again() {
    let mut call = 0;
    let fake = Fake::alone(move |_| {
        call += 1;
        match call {
            3 => Reply::error(400, "com.amazon.coral.service#ExpiredTokenException"),
            _ => Reply::Answer(200, json!({})),
        }
    })
    .await;
    let rotating = Rotating::default();
    let config =
        sdk_config(&place(&fake.url), SharedCredentialsProvider::new(rotating.clone()), &Http::default());
    let store = store_of(&config);
    for _ in 0..2 {
        store.put_state(&states()).await.unwrap();
    }
    let requests = fake.requests();
    let operations: Vec<_> = requests.iter().map(|request| request.operation()).collect();
    assert_eq!(operations, ["GetItem", "PutItem", "GetItem", "GetItem", "PutItem"]);
    for (request, number) in requests.iter().zip([0, 0, 0, 1, 1]) {
        let (key, secret) = (Rotating::key(number), Rotating::secret(number));
        let signed = signed_headers(request, (&key, &secret), (REGION, "dynamodb"));
        for name in ["content-type", "host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
            assert!(signed.contains(&name), "{name} is not among {signed:?}");
        }
        assert_eq!(request.headers["x-amz-security-token"], format!("token{number}"));
        assert_eq!(request.headers["content-type"], "application/x-amz-json-1.0");
    }
    assert_eq!(rotating.0.load(Ordering::Relaxed), 2, "asked for once each");
}

/// The SDK signs by itself; what checks us would find its requests wrong if it were.
#[tokio::test]
async fn the_check_of_signatures_agrees_with_the_sdk() {
    let fake = Fake::alone(|_| Reply::Answer(200, json!({}))).await;
    let rotating = SharedCredentialsProvider::new(Rotating::default());
    let config = sdk_config(&place(&fake.url), rotating, &Http::default());
    let client = aws_sdk_dynamodb::Client::new(&config);
    client.describe_table().table_name("t").send().await.unwrap();
    let requests = fake.requests();
    let credentials = (Rotating::key(0), Rotating::secret(0));
    signed_headers(&requests[0], (&credentials.0, &credentials.1), (REGION, "dynamodb"));
}

#[tokio::test]
async fn a_transaction_keeps_its_token_over_tries_and_another_one_has_another() {
    let mut call = 0;
    let fake = Fake::alone(move |_| {
        call += 1;
        match call {
            1 => Reply::error(500, "InternalServerError"),
            _ => Reply::Answer(200, json!({})),
        }
    })
    .await;
    let store = store(&fake);
    for number in 1..=2 {
        store.park(ManifestId([number; 16]), &record()).await.unwrap();
    }
    let tokens: Vec<_> =
        fake.requests().iter().map(|request| request.json()["ClientRequestToken"].to_string()).collect();
    assert!(tokens[0] == tokens[1] && tokens[1] != tokens[2], "{tokens:?}");
    assert_eq!(tokens[0].len(), 34, "32 characters of the 36 that are allowed");
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_asked_for_again_and_then_unavailable() {
    let answers = [Reply::Text(200, "{\"Item\": {"), Reply::Text(502, "<html>bad gateway</html>")];
    for answer in answers {
        let fake = Fake::alone(move |_| answer.clone()).await;
        let error = store(&fake).put_state(&states()).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(fake.requests().len(), ATTEMPTS_MAX as usize);
    }
}
