//! SQS does a part of a batch, shows nothing at first, or fails in the middle.

use convoy_aws::entry::message as in_queue;
use convoy_aws::sqs::SqsQueue;
use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::{CustomerQueue as _, QueueMessage, QueueName, Receipt};
use serde_json::{Value, json};

use crate::emulator::{ambient, config};
use crate::fake::{Fake, Reply, Request};

fn own() -> QueueName {
    QueueName::Subscription(SubscriptionId::from_bytes(&[1; 16]))
}

fn queue(fake: &Fake) -> SqsQueue {
    SqsQueue::new(aws_sdk_sqs::Client::new(&config(&fake.url)), "test-", ambient())
}

fn url() -> Reply {
    Reply::Answer(200, json!({"QueueUrl": "http://localhost/000000000000/test"}))
}

fn receipts(count: usize) -> Vec<Receipt> {
    (0..count).map(|number| format!("receipt-{number}").parse().unwrap()).collect()
}

fn message(number: u8) -> QueueMessage {
    let event_id = EventId::from_bytes(&[number; 16]);
    QueueMessage { body: format!("{{\"id\":\"{event_id}\"}}").into_bytes(), event_id }
}

/// The requests of one operation, each with what its entries hold under a name.
fn entries(fake: &Fake, operation: &str, name: &str) -> Vec<Vec<String>> {
    let requests = fake.requests();
    let texts = |request: &Request| {
        let body = request.json();
        let entries = body["Entries"].as_array().unwrap().clone();
        entries.iter().map(|entry| entry[name].as_str().unwrap().to_owned()).collect()
    };
    requests.iter().filter(|request| request.operation() == operation).map(texts).collect()
}

/// The answer to a batch: of each entry, by its place, `None` or whose fault it is that it failed.
fn batch(request: &Request, failed: impl Fn(usize) -> Option<(bool, &'static str)>) -> Reply {
    let (mut good, mut bad): (Vec<Value>, Vec<Value>) = Default::default();
    for (place, entry) in request.json()["Entries"].as_array().unwrap().iter().enumerate() {
        let id = &entry["Id"];
        match failed(place) {
            Some((sender, code)) => {
                bad.push(json!({"Id": id, "SenderFault": sender, "Code": code, "Message": "x"}))
            }
            None => good.push(json!({"Id": id, "MessageId": "m", "MD5OfMessageBody": ""})),
        }
    }
    Reply::Answer(200, json!({"Successful": good, "Failed": bad}))
}

#[tokio::test]
async fn what_a_deletion_left_behind_is_deleted_again_and_stale_receipts_do_not_count() {
    let mut call = 0;
    let fake = Fake::alone(move |request| match request.operation() {
        "DeleteMessageBatch" => {
            call += 1;
            batch(request, |place| match (call, place) {
                (1, 1) => Some((true, "ReceiptHandleIsInvalid")),
                (1, 2 | 4) => Some((false, "InternalError")),
                (2, 0) => Some((false, "InternalError")),
                _ => None,
            })
        }
        _ => url(),
    })
    .await;
    assert_eq!(queue(&fake).ack(&own(), &receipts(12), 0).await.unwrap(), 11);
    let calls = entries(&fake, "DeleteMessageBatch", "ReceiptHandle");
    assert_eq!(calls.iter().map(Vec::len).collect::<Vec<_>>(), [10, 2, 1, 2], "ten a call");
    assert_eq!(
        (calls[1].as_slice(), calls[2].as_slice()),
        (["receipt-2", "receipt-4"].map(String::from).as_slice(), ["receipt-2".to_owned()].as_slice())
    );
}

#[tokio::test]
async fn what_cannot_be_deleted_or_given_back_at_all_is_unavailable() {
    let fake = Fake::alone(|request| match request.operation() {
        "GetQueueUrl" => url(),
        _ => {
            let body = request.json();
            let is_bad = |place: usize| body["Entries"][place]["ReceiptHandle"] == "receipt-1";
            batch(request, |place| is_bad(place).then_some((false, "ServiceUnavailable")))
        }
    })
    .await;
    let queue = queue(&fake);
    assert!(queue.ack(&own(), &receipts(3), 0).await.unwrap_err().is_transient());
    assert!(queue.nack(&own(), &receipts(3), 0).await.unwrap_err().is_transient());
    let sizes = |operation| entries(&fake, operation, "Id").iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes("DeleteMessageBatch"), [3, 1, 1, 1]);
    assert_eq!(sizes("ChangeMessageVisibilityBatch"), [3, 1, 1, 1]);
}

#[tokio::test]
async fn a_delay_is_cut_to_twelve_hours_and_never_below_zero() {
    let fake = Fake::alone(|request| match request.operation() {
        "GetQueueUrl" => url(),
        _ => batch(request, |_| None),
    })
    .await;
    let (queue, now_us) = (queue(&fake), crate::emulator::now_us());
    for visible_us in [0, i64::MAX, now_us + 100_000_000] {
        queue.nack(&own(), &receipts(1), visible_us).await.unwrap();
    }
    let requests = fake.requests();
    let delays: Vec<_> = requests
        .iter()
        .filter(|request| request.operation() == "ChangeMessageVisibilityBatch")
        .map(|request| request.json()["Entries"][0]["VisibilityTimeout"].as_i64().unwrap())
        .collect();
    assert_eq!(delays[..2], [0, 43_200]);
    assert!((90..=100).contains(&delays[2]), "{delays:?}");
    let asked = requests.iter().filter(|request| request.operation() == "GetQueueUrl").count();
    assert_eq!(asked, 1, "a url is asked for once");
}

#[tokio::test]
async fn what_a_sending_left_behind_is_sent_again_alone() {
    let mut call = 0;
    let fake = Fake::alone(move |request| match request.operation() {
        "SendMessageBatch" => {
            call += 1;
            batch(request, |place| (call == 1 && place == 1).then_some((false, "InternalError")))
        }
        _ => url(),
    })
    .await;
    let messages: Vec<_> = (0..3).map(|number| (own(), message(number))).collect();
    queue(&fake).send(&messages, 0).await.unwrap();
    let sent = entries(&fake, "SendMessageBatch", "MessageBody");
    assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
    assert_eq!(sent[1][0], sent[0][1]);
    let QueueName::Subscription(subscription) = own() else { panic!() };
    assert_eq!(sent[1][0], in_queue(&subscription, &message(1)));
}

#[tokio::test]
async fn sending_ends_in_unavailable_or_refused() {
    for (sender_fault, code, transient) in [
        (false, "ServiceUnavailable", true),
        (true, "RequestThrottled", true),
        (true, "InvalidMessageContents", false),
    ] {
        let fake = Fake::alone(move |request| match request.operation() {
            "GetQueueUrl" => url(),
            _ => batch(request, |place| (place == 0).then_some((sender_fault, code))),
        })
        .await;
        let error = queue(&fake).send(&[(own(), message(1))], 0).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{code}: {error}");
        assert_eq!(entries(&fake, "SendMessageBatch", "Id").len(), if transient { 4 } else { 1 }, "{code}");
    }
}

fn received(numbers: &[u8]) -> Reply {
    let QueueName::Subscription(subscription) = own() else { panic!() };
    let messages: Vec<_> = numbers
        .iter()
        .map(|number| {
            json!({
                "MessageId": format!("m{number}"),
                "ReceiptHandle": format!("receipt-{number}"),
                "Body": in_queue(&subscription, &message(*number)),
                "Attributes": {"ApproximateReceiveCount": "3", "SentTimestamp": "1700000000123"},
            })
        })
        .collect();
    Reply::Answer(200, json!({ "Messages": messages }))
}

/// A fake whose looks show this, one after the other, and whose batches do all.
async fn showing(looks: Vec<Reply>) -> Fake {
    let mut looks = looks.into_iter();
    Fake::alone(move |request| match request.operation() {
        "GetQueueUrl" => url(),
        "ReceiveMessage" => looks.next().unwrap_or_else(|| Reply::Answer(200, json!({}))),
        _ => batch(request, |_| None),
    })
    .await
}

fn looks(fake: &Fake) -> usize {
    fake.requests().iter().filter(|request| request.operation() == "ReceiveMessage").count()
}

#[tokio::test]
async fn a_queue_that_seems_empty_is_looked_into_twice_without_waiting() {
    let fake = showing(vec![received(&[]), received(&[7])]).await;
    let messages = queue(&fake).receive(&own(), 10, u64::MAX, 1, 0).await.unwrap();
    assert_eq!(messages.iter().map(|message| message.receipt.as_str()).collect::<Vec<_>>(), ["receipt-7"]);
    assert_eq!((messages[0].attempt, messages[0].sent_us), (3, 1_700_000_000_123_000));
    assert_eq!(looks(&fake), 3, "empty, found, and the end of it");
    let requests = fake.requests();
    let look = requests.iter().find(|request| request.operation() == "ReceiveMessage").unwrap().json();
    assert_eq!((&look["WaitTimeSeconds"], &look["VisibilityTimeout"]), (&json!(0), &json!(1)));
    let fake = showing(vec![]).await;
    assert_eq!(queue(&fake).receive(&own(), 10, u64::MAX, 1, 0).await.unwrap(), []);
    assert_eq!(looks(&fake), 2);
}

#[tokio::test]
async fn what_is_taken_is_given_out_though_the_next_look_fails() {
    let fake = showing(vec![received(&[1, 2]), Reply::error(400, "UnsupportedOperation")]).await;
    assert_eq!(queue(&fake).receive(&own(), 10, u64::MAX, 1, 0).await.unwrap().len(), 2);
    let fake = showing(vec![Reply::error(400, "UnsupportedOperation")]).await;
    assert!(!queue(&fake).receive(&own(), 10, u64::MAX, 1, 0).await.unwrap_err().is_transient());
}

#[tokio::test]
async fn what_is_beyond_the_bytes_is_given_back_at_once() {
    let fake = showing(vec![received(&[1, 2, 3])]).await;
    let bytes = message(1).body.len() as u64;
    let messages = queue(&fake).receive(&own(), 10, bytes + 1, 1, 0).await.unwrap();
    assert_eq!(messages.len(), 1);
    let given_back = entries(&fake, "ChangeMessageVisibilityBatch", "ReceiptHandle");
    assert_eq!(given_back, [["receipt-2", "receipt-3"].map(String::from)]);
}
