//! Services fail: what fails for a while is done again, what is refused for good becomes a dead letter.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use convoy::consumer::{self, Stalled};
use convoy::stream::{Consumer, LocalStream};
use convoy_cloud_core::condition::Condition;
use convoy_cloud_core::counters::get;
use convoy_cloud_core::identity::{EventId, SubscriptionId, WebhookEndpointId};
use convoy_cloud_core::ledger::{LedgerEntry, LedgerRange};
use convoy_cloud_core::ports::{
    CustomerQueue, EventQuery, EventStore, FeedEntry, FeedPage, Novelty, PortError, QueueMessage, QueueName,
    QueueStats, Receipt, Received, SignalState, StoredEnvelope, Stream as _,
};
use convoy_cloud_core::quarantine::{Shelf, list, show};
use convoy_cloud_core::record::Record;
use convoy_cloud_core::reference::{
    Delivery, EndpointClass, SubscriptionTerms, Threshold, ThresholdSide, WebhookEndpoint,
};
use convoy_protocol::dtc::DtcChange::{Closed, Opened};
use convoy_protocol::id::{ManifestId, VehicleId};
use serde_json::Value;
use tokio::sync::watch;

use crate::world::{Packet, SECOND_US, START_US, World, everything, manifest};

/// When and how a port fails.
enum Fault {
    /// Once, at this call over all ports that share the fault, before it has done anything.
    Before(u64),
    /// The same, but it has done its work: only the answer is lost.
    After(u64),
    /// Always, what concerns this vehicle or queue.
    Refuse(Victim),
}

enum Victim {
    Vehicle(VehicleId),
    Queue(QueueName),
}

struct Line {
    fault: Fault,
    calls: AtomicU64,
}

impl Line {
    fn new(fault: Fault) -> Arc<Self> {
        Arc::new(Self { fault, calls: AtomicU64::new(0) })
    }

    async fn call<T>(&self, work: impl Future<Output = Result<T, PortError>> + Send) -> Result<T, PortError> {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let lost = || PortError::Unavailable { service: "a port", reason: format!("call {number} was cut") };
        match self.fault {
            Fault::Before(at) if at == number => Err(lost()),
            Fault::After(at) if at == number => work.await.and(Err(lost())),
            _ => work.await,
        }
    }

    fn refuses(&self, concerns: impl Fn(&Victim) -> bool) -> Result<(), PortError> {
        match &self.fault {
            Fault::Refuse(victim) if concerns(victim) => {
                Err(PortError::Refused { service: "a port", reason: "it is on the list".into() })
            }
            _ => Ok(()),
        }
    }
}

struct FaultyStore {
    inner: Arc<dyn EventStore>,
    line: Arc<Line>,
}

#[async_trait]
impl EventStore for FaultyStore {
    async fn put_events(&self, events: &[StoredEnvelope]) -> Result<Vec<Novelty>, PortError> {
        let of = |id: VehicleId| events.iter().any(|event| event.vehicle_id == id);
        self.line.refuses(|victim| matches!(victim, Victim::Vehicle(id) if of(*id)))?;
        self.line.call(self.inner.put_events(events)).await
    }
    async fn put_ledger(&self, entries: &[LedgerEntry]) -> Result<(), PortError> {
        self.line.call(self.inner.put_ledger(entries)).await
    }
    async fn ledger(&self, vehicle_id: VehicleId) -> Result<Vec<LedgerRange>, PortError> {
        self.line.call(self.inner.ledger(vehicle_id)).await
    }
    async fn events(&self, query: EventQuery) -> Result<Vec<StoredEnvelope>, PortError> {
        self.line.call(self.inner.events(query)).await
    }
    async fn put_state(&self, states: &[(VehicleId, Vec<SignalState>)]) -> Result<(), PortError> {
        self.line.call(self.inner.put_state(states)).await
    }
    async fn state(&self, vehicle_id: VehicleId) -> Result<Vec<SignalState>, PortError> {
        self.line.call(self.inner.state(vehicle_id)).await
    }
    async fn conditions(&self, vehicle_id: VehicleId) -> Result<Vec<Condition>, PortError> {
        self.line.call(self.inner.conditions(vehicle_id)).await
    }
    async fn put_conditions(&self, conditions: &[(VehicleId, Condition)]) -> Result<(), PortError> {
        self.line.call(self.inner.put_conditions(conditions)).await
    }
    async fn append_feed(&self, entries: &[FeedEntry]) -> Result<u64, PortError> {
        self.line.call(self.inner.append_feed(entries)).await
    }
    async fn feed(
        &self,
        subscription: &SubscriptionId,
        after: u64,
        limit: u32,
    ) -> Result<FeedPage, PortError> {
        self.line.call(self.inner.feed(subscription, after, limit)).await
    }
    async fn feed_end(&self, subscription: &SubscriptionId) -> Result<u64, PortError> {
        self.line.call(self.inner.feed_end(subscription)).await
    }
    async fn park(&self, manifest_id: ManifestId, record: &Record) -> Result<(), PortError> {
        self.line.call(self.inner.park(manifest_id, record)).await
    }
    async fn parked(&self, manifest_id: ManifestId, limit: u32) -> Result<Vec<Record>, PortError> {
        self.line.call(self.inner.parked(manifest_id, limit)).await
    }
    async fn unpark(&self, manifest_id: ManifestId, records: &[Record]) -> Result<(), PortError> {
        self.line.call(self.inner.unpark(manifest_id, records)).await
    }
}

struct FaultyQueue {
    inner: Arc<dyn CustomerQueue>,
    line: Arc<Line>,
}

#[async_trait]
impl CustomerQueue for FaultyQueue {
    async fn send(&self, messages: &[(QueueName, QueueMessage)], now_us: i64) -> Result<(), PortError> {
        let into = |name: &QueueName| messages.iter().any(|(queue, _)| queue == name);
        self.line.refuses(|victim| matches!(victim, Victim::Queue(name) if into(name)))?;
        self.line.call(self.inner.send(messages, now_us)).await
    }
    async fn receive(
        &self,
        queue: &QueueName,
        messages_max: u32,
        bytes_max: u64,
        lease_us: i64,
        now_us: i64,
    ) -> Result<Vec<Received>, PortError> {
        self.line.call(self.inner.receive(queue, messages_max, bytes_max, lease_us, now_us)).await
    }
    async fn ack(&self, queue: &QueueName, receipts: &[Receipt], now_us: i64) -> Result<u64, PortError> {
        self.line.call(self.inner.ack(queue, receipts, now_us)).await
    }
    async fn nack(&self, queue: &QueueName, receipts: &[Receipt], visible_us: i64) -> Result<u64, PortError> {
        self.line.call(self.inner.nack(queue, receipts, visible_us)).await
    }
    async fn bury(&self, queue: &QueueName, receipts: &[Receipt], reason: &str) -> Result<u64, PortError> {
        self.line.call(self.inner.bury(queue, receipts, reason)).await
    }
    async fn stats(&self, queue: &QueueName, now_us: i64) -> Result<QueueStats, PortError> {
        self.line.call(self.inner.stats(queue, now_us)).await
    }
    async fn next_webhook_us(&self) -> Result<Option<i64>, PortError> {
        self.line.call(self.inner.next_webhook_us()).await
    }
}

/// The pipeline of a world over ports on this line.
fn ingest(world: &World, line: &Arc<Line>) -> convoy_cloud_core::ingest::Ingest {
    let store = FaultyStore { inner: Arc::clone(&world.store), line: Arc::clone(line) };
    let queue = FaultyQueue { inner: Arc::clone(&world.queue), line: Arc::clone(line) };
    world.ingest_over(Arc::new(store), Arc::new(queue))
}

/// Telemetry and alerts of two vehicles; alerts go to feed, queue and webhook.
async fn subscribed(world: &World) -> (SubscriptionId, SubscriptionId, WebhookEndpointId) {
    let customer = world.customer("customer").await;
    world.vehicle(&customer, 1, None).await;
    world.vehicle(&customer, 2, None).await;
    let endpoint = WebhookEndpoint {
        id: WebhookEndpointId::random(&world.ambient),
        customer_id: customer.clone(),
        url: "https://fleet.example/".into(),
        class: EndpointClass::Signed,
        disabled_us: None,
        created_us: 0,
    };
    world.reference.create_endpoint(&endpoint).await.unwrap();
    let raw = world.subscribe(&customer, "raw", everything()).await;
    let threshold =
        Threshold { path: "Vehicle.Speed".into(), side: ThresholdSide::Above, limit: 80.0, hysteresis: 0.0 };
    let delivery = Delivery { queue: true, webhook: Some(endpoint.id.clone()) };
    let terms = SubscriptionTerms { thresholds: vec![threshold], delivery, ..everything() };
    (raw, world.subscribe(&customer, "alerts", terms).await, endpoint.id)
}

/// Two batches in which conditions open, close and open again, some within one batch, one code only for a moment.
fn batches() -> [Vec<Record>; 2] {
    let manifest = manifest(&["Vehicle.Speed"]);
    let at = |second: i64| START_US + second * SECOND_US;
    let packet = |vehicle: u8, sequence: u64| Packet::new(VehicleId([vehicle; 16]), sequence);
    let first = [
        packet(1, 0).samples(&manifest, 0, &[(at(0), 50), (at(1), 90)]),
        packet(2, 0).dtc(7, Opened, at(1)),
        packet(1, 1).dtc(1, Opened, at(2)).dtc(2, Opened, at(2)),
        packet(2, 1).dtc(7, Closed, at(3)).uploads(&manifest),
        packet(1, 2).dtc(1, Closed, at(4)),
        packet(1, 3).dtc(1, Opened, at(5)).samples(&manifest, 0, &[(at(5), 70)]),
    ];
    let second = [
        packet(1, 4).samples(&manifest, 0, &[(at(6), 95)]).dtc(1, Opened, at(6)),
        packet(2, 2).dtc(7, Opened, at(7)),
        packet(1, 5).dtc(2, Closed, at(8)),
    ];
    [first.map(|packet| packet.record()).to_vec(), second.map(|packet| packet.record()).to_vec()]
}

type Delivered = (Vec<Vec<Value>>, Vec<Vec<(EventId, Vec<u8>)>>, Vec<Vec<Condition>>);

async fn delivered(
    world: &World,
    (raw, alerts, endpoint): (SubscriptionId, SubscriptionId, WebhookEndpointId),
) -> Delivered {
    let feeds = vec![world.feed(&raw).await, world.feed(&alerts).await];
    let mut queues = Vec::new();
    for name in [QueueName::Subscription(raw), QueueName::Subscription(alerts), QueueName::Webhook(endpoint)]
    {
        queues.push(world.queued(name).await);
    }
    let mut conditions = Vec::new();
    for vehicle in [1, 2] {
        conditions.push(world.store.conditions(VehicleId([vehicle; 16])).await.unwrap());
    }
    (feeds, queues, conditions)
}

/// Works off the batches over the faulty line, each until it succeeds; how many calls were made.
async fn work_off(world: &World, fault: Fault, restart: bool) -> u64 {
    let line = Line::new(fault);
    let mut pipeline = ingest(world, &line);
    for batch in batches() {
        while let Err(error) = pipeline.handle(&batch).await {
            assert!(error.is_transient(), "{error}");
            if restart {
                pipeline = ingest(world, &line);
            }
        }
    }
    line.calls.load(Ordering::Relaxed)
}

#[tokio::test]
async fn whichever_call_fails_no_alert_is_lost_and_none_is_doubled() {
    let world = World::new().await;
    let subscriptions = subscribed(&world).await;
    let calls = work_off(&world, Fault::Before(u64::MAX), false).await;
    let expected = delivered(&world, subscriptions).await;
    // Speed twice; codes: 1 twice, 2 once, 7 twice.
    assert_eq!((expected.0[1].len(), expected.1[1].len(), expected.1[2].len()), (7, 7, 7));
    assert!((8..60).contains(&calls), "{calls} calls");
    for call in 0..calls {
        for (fault, restart) in [
            (Fault::Before(call), false),
            (Fault::Before(call), true),
            (Fault::After(call), false),
            (Fault::After(call), true),
        ] {
            let world = World::new().await;
            let subscriptions = subscribed(&world).await;
            let made = work_off(&world, fault, restart).await;
            assert!(made > calls, "call {call} did not fail");
            assert_eq!(delivered(&world, subscriptions).await, expected, "call {call}, restart {restart}");
        }
    }
}

/// Two customers with a vehicle and a subscription each, and one record of each vehicle.
async fn two_customers(world: &World) -> ([SubscriptionId; 2], Vec<Record>) {
    let (mut subscriptions, mut records) = (Vec::new(), Vec::new());
    for number in [1, 2] {
        let customer = world.customer("customer").await;
        let vehicle = world.vehicle(&customer, number, None).await;
        subscriptions.push(world.subscribe(&customer, "raw", everything()).await);
        records.push(Packet::new(vehicle, 0).dtc(1, Opened, START_US).record());
    }
    records.push(Packet::new(VehicleId([2; 16]), 1).dtc(1, Closed, START_US + 1).record());
    (subscriptions.try_into().unwrap(), records)
}

async fn only_dead_letter(world: &World) -> (String, Vec<u8>) {
    let listed = list(&world.objects, Shelf::DeadLetters).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    let shown = show(&world.objects, Shelf::DeadLetters, &listed[0].id).await.unwrap().unwrap();
    (shown.reason, STANDARD.decode(shown.payload).unwrap())
}

#[tokio::test]
async fn a_queue_that_refuses_for_good_gives_a_dead_letter_and_the_others_get_theirs() {
    let world = World::new().await;
    let ([refused, served], records) = two_customers(&world).await;
    let victim = Victim::Queue(QueueName::Subscription(refused.clone()));
    let pipeline = ingest(&world, &Line::new(Fault::Refuse(victim)));
    pipeline.handle(&records).await.unwrap();
    let (reason, payload) = only_dead_letter(&world).await;
    assert_eq!((reason.as_str(), payload), ("a port refused: it is on the list", records[0].payload.clone()));
    assert_eq!(get(&world.counters.records_dead), 1);
    assert_eq!((world.feed(&refused).await.len(), world.feed(&served).await.len()), (0, 2));
    // Nothing is lost for good: when the queue takes events again, the record can be given again.
    world.ingest().handle(&records).await.unwrap();
    assert_eq!((world.feed(&refused).await.len(), world.feed(&served).await.len()), (1, 2));
}

#[tokio::test]
async fn a_store_that_refuses_one_record_for_good_does_not_hold_up_the_stream() {
    let world = World::new().await;
    let ([refused, served], records) = two_customers(&world).await;
    let stream = Arc::new(LocalStream::open(&world.path().join("stream"), 1 << 30).unwrap());
    stream.append(&records).await.unwrap();
    let pipeline = ingest(&world, &Line::new(Fault::Refuse(Victim::Vehicle(VehicleId([1; 16])))));
    let (stop, stopped) = watch::channel(false);
    let stalled = Stalled::default();
    let running = tokio::spawn(consumer::run(Arc::clone(&stream), pipeline, Arc::clone(&stalled), stopped));
    while stream.checkpoint(Consumer::Ingest).0 < records.len() as u64 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.unwrap().unwrap();
    let (reason, payload) = only_dead_letter(&world).await;
    assert_eq!((reason.as_str(), payload), ("a port refused: it is on the list", records[0].payload.clone()));
    assert_eq!((world.feed(&refused).await.len(), world.feed(&served).await.len()), (0, 2));
    assert_eq!(get(&world.counters.records_dead), 1);
    assert_eq!(*stalled.lock().unwrap(), None);
}

#[tokio::test]
async fn a_stream_goes_on_by_itself_after_a_service_was_away() {
    let world = World::new().await;
    let ([first, second], records) = two_customers(&world).await;
    let stream = Arc::new(LocalStream::open(&world.path().join("stream"), 1 << 30).unwrap());
    let pipeline = ingest(&world, &Line::new(Fault::Before(0)));
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(consumer::run(Arc::clone(&stream), pipeline, Stalled::default(), stopped));
    stream.append(&records).await.unwrap();
    while stream.checkpoint(Consumer::Ingest).0 < records.len() as u64 {
        tokio::task::yield_now().await;
    }
    stop.send_replace(true);
    running.await.unwrap().unwrap();
    assert_eq!(get(&world.counters.batches_retried), 1);
    assert_eq!((world.feed(&first).await.len(), world.feed(&second).await.len()), (1, 2));
}
