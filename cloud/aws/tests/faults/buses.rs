//! EventBridge takes a part, nothing, or nothing ever.

use convoy_aws::clients::ATTEMPTS_MAX;
use convoy_aws::entry_calls::AGAIN;
use convoy_aws::eventbridge::ClassicBus;
use convoy_cloud_core::bus::BusName;
use convoy_cloud_core::ports::{EventBus as _, PortError};
use serde_json::{Value, json};

use crate::alerts::{alerts, marks, numbers};
use crate::emulator::{ambient, config};
use crate::fake::{Fake, Reply};

async fn publish(fake: &Fake, count: u8) -> Vec<Result<(), PortError>> {
    let client = aws_sdk_eventbridge::Client::new(&config(&fake.url));
    let bus = ClassicBus::new(client, None, Some("delivery".into()), ambient());
    bus.publish(BusName::Delivery, alerts(count)).await
}

/// The numbers of each call, the calls of one round in order.
fn calls(fake: &Fake) -> Vec<Vec<u8>> {
    fake.requests().iter().map(|request| numbers(&request.json())).collect()
}

/// The answer to a call: of each alert its error code, or none.
fn answer(numbers: &[u8], code: impl Fn(u8) -> Option<&'static str>) -> Reply {
    let result = |number: &u8| match code(*number) {
        Some(code) => json!({"ErrorCode": code, "ErrorMessage": "as the script says"}),
        None => json!({"EventId": "11710aed-b79e-4468-a20b-bb3c0c3b4860"}),
    };
    let results: Vec<Value> = numbers.iter().map(result).collect();
    Reply::Answer(200, json!({"FailedEntryCount": 0, "Entries": results}))
}

#[tokio::test]
async fn only_what_was_refused_is_published_again() {
    let mut call = 0;
    let fake = Fake::alone(move |request| {
        call += 1;
        let refused = |number: u8| match call {
            1 => number.is_multiple_of(3).then_some("ThrottlingException"),
            2 => number.is_multiple_of(2).then_some("InternalFailure"),
            _ => None,
        };
        answer(&numbers(&request.json()), refused)
    })
    .await;
    assert_eq!(marks(&publish(&fake, 10).await), "++++++++++");
    let expected: [&[u8]; 3] = [&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], &[0, 3, 6, 9], &[0, 6]];
    assert_eq!(calls(&fake), expected);
    let entry = &fake.requests()[0].json()["Entries"][3];
    assert_eq!((&entry["EventBusName"], &entry["Source"]), (&json!("delivery"), &json!("convoy.delivery")));
    assert_eq!(entry["DetailType"], "vehicle.alert.v1");
}

#[tokio::test]
async fn what_stays_throttled_is_unavailable_and_nothing_else() {
    let fake = Fake::alone(|request| {
        answer(&numbers(&request.json()), |number| (number == 4).then_some("ThrottlingException"))
    })
    .await;
    let outcomes = publish(&fake, 6).await;
    assert_eq!(marks(&outcomes), "++++?+");
    let error = outcomes[4].clone().unwrap_err().to_string();
    assert_eq!(error, "EventBridge is not available: ThrottlingException: as the script says");
    let calls = calls(&fake);
    assert_eq!(calls.len(), AGAIN.attempts_max as usize);
    assert!(calls[1..].iter().all(|call| *call == [4]), "{calls:?}");
}

#[tokio::test]
async fn what_is_refused_for_good_is_not_published_again() {
    let fake = Fake::alone(|request| {
        answer(&numbers(&request.json()), |number| match number {
            1 => Some("MalformedDetail"),
            2 => Some("NotAuthorizedForSourceException"),
            _ => None,
        })
    })
    .await;
    assert_eq!(marks(&publish(&fake, 4).await), "+--+");
    assert_eq!(calls(&fake), [[0, 1, 2, 3]]);
}

#[tokio::test]
async fn a_call_that_fails_as_a_whole_is_made_again_and_takes_ten_entries() {
    let mut call = 0;
    let fake = Fake::alone(move |request| {
        call += 1;
        match call {
            1 => Reply::error(500, "InternalException"),
            2 => Reply::error(400, "ThrottlingException"),
            3 => Reply::Answer(503, json!("not even an error of the service")),
            _ => answer(&numbers(&request.json()), |_| None),
        }
    })
    .await;
    assert_eq!(marks(&publish(&fake, 25).await), "+".repeat(25));
    let (calls, mut distinct) = (calls(&fake), calls(&fake));
    distinct.sort();
    distinct.dedup();
    assert_eq!(distinct.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
    assert_eq!(calls.len(), 3 + 3, "three failed and were made again");
}

#[tokio::test]
async fn a_bus_that_fails_on_and_on_is_unavailable_after_the_tries_of_one_call() {
    let fake = Fake::alone(|_| Reply::error(500, "InternalException")).await;
    assert_eq!(marks(&publish(&fake, 2).await), "??");
    assert_eq!(fake.requests().len(), ATTEMPTS_MAX as usize, "the SDK's tries are not multiplied by ours");
}

#[tokio::test]
async fn one_entry_that_spoils_a_call_takes_no_other_with_it() {
    let fake = Fake::alone(|request| {
        let numbers = numbers(&request.json());
        if numbers.contains(&2) {
            return Reply::error(400, "ValidationException");
        }
        answer(&numbers, |_| None)
    })
    .await;
    assert_eq!(marks(&publish(&fake, 4).await), "++-+");
    assert_eq!(fake.requests().len(), 5, "together once, then each alone");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_the_call_is_no_success() {
    let fake =
        Fake::alone(|_| Reply::Answer(200, json!({"FailedEntryCount": 0, "Entries": [{"EventId": "x"}]})))
            .await;
    assert_eq!(marks(&publish(&fake, 2).await), "??");
    let fake = Fake::alone(|_| Reply::Answer(200, json!({"FailedEntryCount": 0, "Entries": [{}]}))).await;
    assert_eq!(marks(&publish(&fake, 1).await), "?");
}

#[tokio::test]
async fn a_bus_that_a_process_was_not_given_is_refused() {
    let fake = Fake::alone(|_| Reply::error(500, "never asked")).await;
    let client = aws_sdk_eventbridge::Client::new(&config(&fake.url));
    let bus = ClassicBus::new(client, Some("default".into()), None, ambient());
    assert_eq!(marks(&bus.publish(BusName::Delivery, alerts(2)).await), "--");
    assert_eq!(marks(&bus.publish(BusName::Default, alerts(2)).await), "--", "not events of that bus");
    assert_eq!(fake.requests().len(), 0);
}
