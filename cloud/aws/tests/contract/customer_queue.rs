//! SQS as customers' queues, and the way down.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use convoy_aws::downlink::{Kind, SqsDownlink};
use convoy_aws::sqs::{DEAD_SUFFIX, REASON_ATTRIBUTE, SqsQueue, queue_name};
use convoy_cloud_core::contract::customer_queue::{self, Memory, Subject};
use convoy_cloud_core::contract::{Clock, Run};
use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::{CustomerQueue as _, Downlink, PortError, QueueMessage, QueueName};
use convoy_protocol::downlink::{Down, PayloadDigest};
use convoy_protocol::id::VehicleId;

use crate::emulator::{ambient, config, emulator, now_us};

const PREFIX: &str = "test-";
const SECOND_US: i64 = 1_000_000;

/// The service's own clock, which nobody can set: a test waits.
struct TrueClock;

#[async_trait]
impl Clock for TrueClock {
    fn now_us(&self) -> i64 {
        now_us()
    }

    async fn advance(&self, seconds: u32) {
        // A little more: the emulator's times are those of another process.
        tokio::time::sleep(Duration::from_millis(u64::from(seconds) * 1_000 + 20)).await;
    }
}

fn client() -> Client {
    Client::new(&config(&emulator().url))
}

async fn make(client: &Client, queue: &QueueName) -> String {
    let name = queue_name(PREFIX, queue);
    client.create_queue().queue_name(format!("{name}{DEAD_SUFFIX}")).send().await.unwrap();
    client.create_queue().queue_name(name).send().await.unwrap().queue_url.unwrap()
}

fn own(number: u8) -> QueueName {
    QueueName::Subscription(SubscriptionId::from_bytes(&[number; 16]))
}

fn message(number: u8) -> QueueMessage {
    let event_id = EventId::from_bytes(&[number; 16]);
    let body = format!("{{\"id\":\"{event_id}\"}}").into_bytes();
    QueueMessage { event_id, body }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqs_is_a_customer_queue() {
    let (client, run) = (client(), Run(1));
    for queue in customer_queue::names(run) {
        make(&client, &queue).await;
    }
    let queue = SqsQueue::new(client, PREFIX, ambient());
    customer_queue::all(Subject { queue: &queue, clock: &TrueClock, memory: Memory::Forgets }, run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_call_takes_is_sent_received_and_acknowledged() {
    let client = client();
    make(&client, &own(1)).await;
    let queue = SqsQueue::new(client, PREFIX, ambient());
    let large = QueueMessage { body: vec![b'x'; 300_000], ..message(200) };
    let mut sent: Vec<_> = (0..23).map(message).collect();
    sent.extend(vec![large; 4]);
    let to_queue: Vec<_> = sent.iter().map(|message| (own(1), message.clone())).collect();
    queue.send(&to_queue, 0).await.unwrap();
    let received = queue.receive(&own(1), 100, u64::MAX, 60 * SECOND_US, 0).await.unwrap();
    let mut events: Vec<_> = received.iter().flat_map(|received| received.events.clone()).collect();
    events.sort_by_key(|event| sent.iter().position(|sent| sent == event));
    assert_eq!(events, sent);
    let receipts: Vec<_> = received.into_iter().map(|received| received.receipt).collect();
    assert_eq!(queue.ack(&own(1), &receipts, 0).await.unwrap(), sent.len() as u64);
    assert_eq!(queue.ack(&own(1), &receipts, 0).await.unwrap(), 0, "stale receipts are no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_goes_to_the_dead_letters_with_its_reason() {
    let client = client();
    let url = make(&client, &own(2)).await;
    let queue = SqsQueue::new(client.clone(), PREFIX, ambient());
    client.send_message().queue_url(&url).message_body("{\"detail\":{}}").send().await.unwrap();
    queue.send(&[(own(2), message(1))], 0).await.unwrap();
    let received = queue.receive(&own(2), 10, u64::MAX, SECOND_US, 0).await.unwrap();
    assert_eq!(received.iter().map(|received| &received.events[0]).collect::<Vec<_>>(), [&message(1)]);
    assert_eq!(queue.unreadable(), 1);
    let stats = queue.stats(&own(2), 0).await.unwrap();
    assert_eq!((stats.visible, stats.in_flight, stats.dead), (0, 1, 1));
    let dead = client.receive_message().queue_url(format!("{url}{DEAD_SUFFIX}"));
    let dead =
        dead.message_attribute_names(REASON_ATTRIBUTE).send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(dead.body(), Some("{\"detail\":{}}"));
    let reason = dead.message_attributes.unwrap().remove(REASON_ATTRIBUTE).unwrap().string_value.unwrap();
    assert!(reason.contains("an entry cannot be read"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_not_there_is_refused_and_one_made_anew_is_found() {
    let client = client();
    let queue = SqsQueue::new(client.clone(), PREFIX, ambient());
    let receive = async || queue.receive(&own(3), 1, 1, SECOND_US, 0).await;
    let refused = receive().await.unwrap_err();
    assert!(
        matches!(&refused, PortError::Refused { reason, .. } if reason.contains("not provisioned")),
        "{refused}"
    );
    let url = make(&client, &own(3)).await;
    assert_eq!(receive().await.unwrap(), []);
    client.delete_queue().queue_url(url).send().await.unwrap();
    assert!(matches!(receive().await, Err(PortError::Refused { .. })));
    make(&client, &own(3)).await;
    assert_eq!(receive().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_this_process_received_can_be_buried() {
    let client = client();
    let url = make(&client, &own(4)).await;
    let queue = SqsQueue::new(client.clone(), PREFIX, ambient());
    queue.send(&[(own(4), message(1))], 0).await.unwrap();
    let receipt = queue.receive(&own(4), 1, 1, 60 * SECOND_US, 0).await.unwrap().remove(0).receipt;
    let other = SqsQueue::new(client.clone(), PREFIX, ambient());
    let refused = other.bury(&own(4), std::slice::from_ref(&receipt), "x").await.unwrap_err();
    assert!(!refused.is_transient(), "{refused}");
    assert_eq!(queue.bury(&own(4), std::slice::from_ref(&receipt), "endpoint is gone").await.unwrap(), 1);
    let dead = client.receive_message().queue_url(format!("{url}{DEAD_SUFFIX}"));
    let dead =
        dead.message_attribute_names(REASON_ATTRIBUTE).send().await.unwrap().messages.unwrap().remove(0);
    let reason = &dead.message_attributes.as_ref().unwrap()[REASON_ATTRIBUTE];
    assert_eq!(reason.string_value(), Some("endpoint is gone"));
    assert!(dead.body().unwrap().contains(message(1).event_id.as_str()), "the message itself is kept");
}

/// Publishes until told otherwise, and keeps what it published.
#[derive(Default)]
struct Vehicles {
    away: std::sync::atomic::AtomicBool,
    got: std::sync::Mutex<Vec<(Kind, VehicleId, Down)>>,
}

impl Vehicles {
    fn publish(&self, kind: Kind, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        if self.away.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(PortError::Unavailable { service: "broker", reason: "away".into() });
        }
        self.got.lock().unwrap().push((kind, vehicle_id, down.clone()));
        Ok(())
    }
}

#[async_trait]
impl Downlink for Vehicles {
    async fn ack(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.publish(Kind::Ack, vehicle_id, down)
    }

    async fn request(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError> {
        self.publish(Kind::Request, vehicle_id, down)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_to_vehicles_comes_down_and_comes_again_until_it_is_published() {
    let client = client();
    let made = client.create_queue().queue_name("downlink");
    let made =
        made.attributes(aws_sdk_sqs::types::QueueAttributeName::VisibilityTimeout, "0").send().await.unwrap();
    let url = made.queue_url.unwrap();
    let (downlink, vehicles) = (SqsDownlink::new(client.clone(), &url), Arc::new(Vehicles::default()));
    let (vehicle, down) = (VehicleId([7; 16]), Down::Quarantined(PayloadDigest::of(b"x")));
    client.send_message().queue_url(&url).message_body("garbage").send().await.unwrap();
    downlink.ack(vehicle, &down).await.unwrap();
    downlink.request(vehicle, &down).await.unwrap();
    vehicles.away.store(true, std::sync::atomic::Ordering::Relaxed);
    downlink.forward(vehicles.as_ref()).await.unwrap();
    assert_eq!(vehicles.got.lock().unwrap().len(), 0);
    vehicles.away.store(false, std::sync::atomic::Ordering::Relaxed);
    downlink.forward(vehicles.as_ref()).await.unwrap();
    let mut got = vehicles.got.lock().unwrap().clone();
    got.sort_by_key(|(kind, ..)| *kind == Kind::Request);
    assert_eq!(got, [(Kind::Ack, vehicle, down.clone()), (Kind::Request, vehicle, down)]);
    let counts = client.get_queue_attributes().queue_url(&url);
    let counts = counts.attribute_names(aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages);
    let counts = counts.send().await.unwrap().attributes.unwrap();
    assert_eq!(counts[&aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessages], "0");
}

/// Longer than one try of any other call may take.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_for_messages_waits_for_twenty_seconds() {
    let client = client();
    let url = client.create_queue().queue_name("quiet").send().await.unwrap().queue_url.unwrap();
    let downlink = SqsDownlink::new(client, url);
    let (vehicle, down) = (VehicleId([7; 16]), Down::Quarantined(PayloadDigest::of(b"x")));
    let looking = tokio::spawn({
        let downlink = downlink.clone();
        async move { downlink.take().await }
    });
    tokio::time::sleep(convoy_aws::clients::ATTEMPT_TIMEOUT + Duration::from_secs(1)).await;
    assert!(!looking.is_finished());
    downlink.ack(vehicle, &down).await.unwrap();
    let taken = looking.await.unwrap().unwrap();
    assert_eq!((taken.len(), taken[0].vehicle_id), (1, vehicle));
}
