//! The custom event bus on good and bad days, over its wire protocol.

use std::time::Instant;

use convoy_aws::clients::{ATTEMPT_TIMEOUT, ATTEMPTS_MAX};
use convoy_aws::entry_calls::AGAIN;
use convoy_aws::eventbridge_v2::DeliveryBusV2;
use convoy_cloud_core::bus::BusName;
use convoy_cloud_core::identity::CustomerId;
use convoy_cloud_core::ports::{EventBus as _, PortError};
use serde_json::{Value, json};

use crate::alerts::{alerts, marks, numbers};
use crate::emulator::{ambient, config};
use crate::fake::{Fake, Reply, Request};

const ARN: &str = "arn:aws:events:eu-central-1:123456789012:event-busv2/convoy/abcdefghijklmnopqrstuvwxy";

async fn publish(fake: &Fake, count: u8) -> Vec<Result<(), PortError>> {
    let client = aws_sdk_eventbridgev2::Client::new(&config(&fake.url));
    DeliveryBusV2::new(client, ARN, ambient()).publish(BusName::Delivery, alerts(count)).await
}

fn put(request: &Request) -> Value {
    let (operation, body) = request.cbor();
    assert_eq!(operation, "PutEvents");
    body
}

/// `Ok` with a success code, or an error code.
fn answer(request: &Request, result: impl Fn(u8) -> Result<&'static str, &'static str>) -> Reply {
    let results = numbers(&put(request)).into_iter().map(|number| match result(number) {
        Ok(code) => json!({"EventId": "x", "SequenceNumber": "1", "SuccessCode": code}),
        Err(code) => json!({"ErrorCode": code, "ErrorMessage": "as the script says"}),
    });
    let results: Vec<Value> = results.collect();
    Reply::Cbor(200, json!({"FailedEntryCount": 0, "Entries": results}))
}

fn error(status: u16, code: &str) -> Reply {
    Reply::Cbor(
        status,
        json!({"__type": format!("com.amazonaws.eventsv2#{code}"), "message": "as the script says"}),
    )
}

fn calls(fake: &Fake) -> Vec<Vec<u8>> {
    fake.requests().iter().map(|request| numbers(&put(request))).collect()
}

#[tokio::test]
async fn entries_carry_a_group_of_their_customer_and_an_id_that_stays_the_same() {
    let fake = Fake::alone(|request| answer(request, |_| Ok("PUBLISHED"))).await;
    assert_eq!(marks(&publish(&fake, 2).await), "++");
    assert_eq!(marks(&publish(&fake, 2).await), "++");
    let [first, second] = [0, 1].map(|call| put(&fake.requests()[call]));
    assert_eq!(first, second, "published again, an entry is the same to the byte");
    assert_eq!(first["EventBusArn"], ARN);
    let marks = [0, 1].map(|entry: usize| first["Entries"][entry]["SystemMetadata"].clone());
    assert_eq!(marks[0]["EventGroupId"], marks[1]["EventGroupId"], "one subscription");
    let group = marks[0]["EventGroupId"].as_str().unwrap();
    assert!(group.starts_with(CustomerId::from_bytes(&[1; 16]).as_str()) && group.contains('#'), "{group}");
    assert_ne!(marks[0]["DeduplicationId"], marks[1]["DeduplicationId"]);
}

#[tokio::test]
async fn what_the_bus_has_already_is_published() {
    let fake = Fake::alone(|request| {
        answer(request, |number| Ok(if number == 1 { "DEDUPLICATED" } else { "PUBLISHED" }))
    })
    .await;
    assert_eq!(marks(&publish(&fake, 3).await), "+++");
    assert_eq!(calls(&fake), [[0, 1, 2]]);
}

#[tokio::test]
async fn only_what_was_refused_is_published_again_and_what_is_refused_for_good_is_not() {
    let mut call = 0;
    let fake = Fake::alone(move |request| {
        call += 1;
        answer(request, |number| match number {
            0 => Err("InvalidInputException"),
            1 if call == 1 => Err("InternalException"),
            2 if call <= 2 => Err("ThrottlingException"),
            _ => Ok("PUBLISHED"),
        })
    })
    .await;
    assert_eq!(marks(&publish(&fake, 5).await), "-++++");
    let expected: [&[u8]; 3] = [&[0, 1, 2, 3, 4], &[1, 2], &[2]];
    assert_eq!(calls(&fake), expected);
}

#[tokio::test]
async fn what_stays_throttled_is_unavailable_and_nothing_else() {
    let fake = Fake::alone(|request| {
        answer(request, |number| if number == 1 { Err("ThrottlingException") } else { Ok("PUBLISHED") })
    })
    .await;
    assert_eq!(marks(&publish(&fake, 3).await), "+?+");
    assert_eq!(fake.requests().len(), AGAIN.attempts_max as usize);
}

#[tokio::test]
async fn a_call_that_fails_as_a_whole_is_made_again_also_without_any_answer() {
    let mut call = 0;
    let fake = Fake::alone(move |request| {
        call += 1;
        match call {
            1 => error(500, "InternalException"),
            2 => error(429, "ThrottlingException"),
            3 => Reply::Silence,
            _ => answer(request, |_| Ok("PUBLISHED")),
        }
    })
    .await;
    let began = Instant::now();
    assert_eq!(marks(&publish(&fake, 3).await), "+++");
    assert_eq!(calls(&fake), [[0, 1, 2]; 4]);
    assert!(began.elapsed() < ATTEMPT_TIMEOUT * 3, "one try without an answer ends in time");
}

#[tokio::test]
async fn a_bus_that_fails_on_and_on_is_unavailable_and_one_that_is_not_there_is_refused() {
    let fake = Fake::alone(|_| error(500, "InternalException")).await;
    assert_eq!(marks(&publish(&fake, 2).await), "??");
    assert_eq!(fake.requests().len(), ATTEMPTS_MAX as usize);
    let fake = Fake::alone(|_| error(404, "ResourceNotFoundException")).await;
    let outcomes = publish(&fake, 1).await;
    assert_eq!(marks(&outcomes), "-");
    assert!(outcomes[0].clone().unwrap_err().to_string().contains("ResourceNotFoundException"));
}

#[tokio::test]
async fn the_default_bus_is_never_this_one() {
    let fake = Fake::alone(|_| error(500, "NeverAsked")).await;
    let client = aws_sdk_eventbridgev2::Client::new(&config(&fake.url));
    let outcomes = DeliveryBusV2::new(client, ARN, ambient()).publish(BusName::Default, alerts(1)).await;
    assert_eq!((marks(&outcomes).as_str(), fake.requests().len()), ("-", 0));
}
