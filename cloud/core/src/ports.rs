//! The ports: one trait for each service outside, and no more. They take and return our types, never an SDK's.
//!
//! | port | one machine | AWS |
//! |---|---|---|
//! | [`Stream`] | segment log | Kinesis or MSK |
//! | [`EventBus`] | in process | EventBridge |
//! | [`EventStore`] | SQLite | DynamoDB |
//! | [`CustomerQueue`] | SQLite | SQS |
//! | [`crate::reference::ReferenceDatabase`] | SQLite | PostgreSQL |
//! | [`Provisioner`] | SQLite | Step Functions tasks |
//! | [`ManifestStore`] | SQLite | S3 |
//! | [`ReportSink`] | in process | SQS |
//! | [`Downlink`] | MQTT | SQS, then MQTT |
//! | [`WebhookSender`] | HTTP | HTTP |
//!
//! Objects (archive, quarantine, dead letters) go through the `object_store` crate; secrets are given at start.

use async_trait::async_trait;
use convoy_protocol::downlink::Down;
use convoy_protocol::id::{EnvelopeKey, ManifestId, VehicleId};
use convoy_protocol::report::Report;
use serde::{Deserialize, Serialize};

use crate::bus::{BusEvent, BusName};
use crate::condition::Condition;
use crate::identity::{EventId, SubscriptionId, WebhookEndpointId};
use crate::ledger::{LedgerEntry, LedgerRange};
use crate::record::Record;
use crate::rules::Rule;

/// What went wrong at a service outside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// It may work later: retry.
    #[error("{service} is not available: {reason}")]
    Unavailable {
        /// The service.
        service: &'static str,
        /// What it said.
        reason: String,
    },
    /// It will not work however often it is tried.
    #[error("{service} refused: {reason}")]
    Refused {
        /// The service.
        service: &'static str,
        /// What it said.
        reason: String,
    },
    /// The thing exists already, in another form.
    #[error("{service} has it already: {reason}")]
    Conflict {
        /// The service.
        service: &'static str,
        /// What it said.
        reason: String,
    },
}

impl PortError {
    /// Is it worth trying again?
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// A place in the stream; later records have larger ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamPosition(pub u64);

/// The durable stream between bridge and consumers.
#[async_trait]
pub trait Stream: Send + Sync {
    /// Appends records; when it returns, they are durable.
    async fn append(&self, records: &[Record]) -> Result<(), PortError>;
}

/// The event buses.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Publishes events; one result an event, in order. Ok means that every target of a matching rule accepted it.
    async fn publish(&self, bus: BusName, events: Vec<BusEvent>) -> Vec<Result<(), PortError>>;
}

/// An envelope in the event store: one item, projected when it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEnvelope {
    /// The vehicle.
    pub vehicle_id: VehicleId,
    /// The envelope's identity within it.
    pub key: EnvelopeKey,
    /// Earliest sample or record in it, microseconds since the Unix epoch, UTC.
    pub first_us: i64,
    /// Latest sample or record in it.
    pub last_us: i64,
    /// When the bridge received it.
    pub received_us: i64,
    /// The envelope as the vehicle sent it.
    pub bytes: Vec<u8>,
}

/// Was an envelope there already?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Novelty {
    /// It was not.
    New,
    /// It is stored.
    Known,
    /// It was stored once; its events are over, and it must not be published again.
    Forgotten,
}

/// Which envelopes to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventQuery {
    /// Of which vehicle.
    pub vehicle_id: VehicleId,
    /// With samples at or after this time.
    pub from_us: i64,
    /// With samples before this time.
    pub to_us: i64,
    /// Only after this one, in the order (first sample, boot, lane, sequence).
    pub after: Option<(i64, EnvelopeKey)>,
    /// At most this many.
    pub limit: u32,
}

/// The last value of one signal.
#[derive(Debug, Clone, PartialEq)]
pub struct SignalState {
    /// VSS path.
    pub path: String,
    /// Unit of the value.
    pub unit: String,
    /// The value; `None` where it is not a finite number.
    pub value: Option<f64>,
    /// When it was sampled, microseconds since the Unix epoch, UTC.
    pub sampled_us: i64,
    /// When the cloud received it.
    pub received_us: i64,
}

/// An event in a subscription's feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEntry {
    /// Whose feed.
    pub subscription_id: SubscriptionId,
    /// The event's delivered id.
    pub event_id: EventId,
    /// The event, JSON.
    pub body: Vec<u8>,
    /// When it was committed to the feed, microseconds since the Unix epoch, UTC.
    pub committed_us: i64,
}

/// A page of a feed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedPage {
    /// The entries, in commit order.
    pub entries: Vec<FeedEntry>,
    /// Position of the last entry; the next page begins after it.
    pub position: u64,
    /// Are there more?
    pub has_more: bool,
    /// Position before the oldest entry still kept; a reader behind it has lost events.
    pub oldest: u64,
}

/// Where manifests are kept, by the hash of their content: what is there never changes.
#[async_trait]
pub trait ManifestStore: Send + Sync {
    /// Keeps a manifest's encoding; keeping it again changes nothing.
    async fn put_manifest(&self, id: ManifestId, encoding: &[u8]) -> Result<(), PortError>;
    /// A manifest's encoding; `None` while nobody has uploaded it.
    async fn manifest(&self, id: ManifestId) -> Result<Option<Vec<u8>>, PortError>;
}

/// Takes what vehicles report of their campaigns.
#[async_trait]
pub trait ReportSink: Send + Sync {
    /// Takes one report. It may come twice; a lost one is asked for again.
    async fn take(&self, vehicle_id: VehicleId, report: &Report, received_us: i64) -> Result<(), PortError>;
}

/// Processed events, last known state, conditions, feeds, and envelopes that wait for their manifest.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// Stores envelopes and enters them into the ledger, together; for each, was it new? Storing one again changes
    /// nothing.
    async fn put_events(&self, events: &[StoredEnvelope]) -> Result<Vec<Novelty>, PortError>;
    /// Enters what became of envelopes into the ledger; entering it again changes nothing.
    async fn put_ledger(&self, entries: &[LedgerEntry]) -> Result<(), PortError>;
    /// What became of a vehicle's envelopes, in no order; ranges may overlap.
    async fn ledger(&self, vehicle_id: VehicleId) -> Result<Vec<LedgerRange>, PortError>;
    /// Reads a vehicle's envelopes in order.
    async fn events(&self, query: EventQuery) -> Result<Vec<StoredEnvelope>, PortError>;

    /// Takes newer values into the last known state; an older one than is stored changes nothing.
    async fn put_state(&self, states: &[(VehicleId, Vec<SignalState>)]) -> Result<(), PortError>;
    /// Last known state of a vehicle, by path.
    async fn state(&self, vehicle_id: VehicleId) -> Result<Vec<SignalState>, PortError>;

    /// All conditions of a vehicle.
    async fn conditions(&self, vehicle_id: VehicleId) -> Result<Vec<Condition>, PortError>;
    /// Replaces conditions.
    async fn put_conditions(&self, conditions: &[(VehicleId, Condition)]) -> Result<(), PortError>;

    /// Appends to feeds, in the given order; an event that is in its feed already changes nothing. Returns how
    /// many were new.
    async fn append_feed(&self, entries: &[FeedEntry]) -> Result<u64, PortError>;
    /// Reads a feed after a position.
    async fn feed(
        &self,
        subscription: &SubscriptionId,
        after: u64,
        limit: u32,
    ) -> Result<FeedPage, PortError>;
    /// Position of the newest entry of a feed, 0 for an empty one.
    async fn feed_end(&self, subscription: &SubscriptionId) -> Result<u64, PortError>;

    /// Keeps a record until its manifest is known; keeping it again changes nothing.
    async fn park(&self, manifest_id: ManifestId, record: &Record) -> Result<(), PortError>;
    /// Records that wait for a manifest, oldest first, at most `limit`.
    async fn parked(&self, manifest_id: ManifestId, limit: u32) -> Result<Vec<Record>, PortError>;
    /// Forgets the records returned by the last [`EventStore::parked`] for this manifest.
    async fn unpark(&self, manifest_id: ManifestId, records: &[Record]) -> Result<(), PortError>;
}

/// Name of a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum QueueName {
    /// A subscription's queue, read by the customer.
    Subscription(SubscriptionId),
    /// An endpoint's queue, read by the webhook dispatcher.
    Webhook(WebhookEndpointId),
}

impl std::fmt::Display for QueueName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Subscription(id) => write!(f, "queue/{id}"),
            Self::Webhook(id) => write!(f, "webhook/{id}"),
        }
    }
}

/// A message to put into a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueMessage {
    /// The event's delivered id: where the queue keeps ids, a message whose id it has seen changes nothing.
    pub event_id: EventId,
    /// The event, JSON.
    pub body: Vec<u8>,
}

/// Longest receipt, characters; SQS documents 1,024 for its own.
const RECEIPT_CHARS_MAX: usize = 1_024;

/// Names one reception of a message; a later reception has another one. Its form is the queue's own affair: visible
/// ASCII without quotes and backslashes, so that it needs no escape in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt(String);

impl Receipt {
    /// As it goes to the customer and comes back.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Receipt {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let fits = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        (!text.is_empty() && text.len() <= RECEIPT_CHARS_MAX && text.bytes().all(fits))
            .then(|| Self(text.to_owned()))
            .ok_or(())
    }
}

/// A received message, invisible to other receivers until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Names this reception.
    pub receipt: Receipt,
    /// How often the message was received, this time included.
    pub attempt: u32,
    /// Its events, at least one: what was packed together comes, and is acknowledged, together.
    pub events: Vec<QueueMessage>,
    /// When it was put into the queue, microseconds since the Unix epoch, UTC.
    pub sent_us: i64,
}

/// Numbers of a queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Messages that can be received now.
    pub visible: u64,
    /// Messages under a lease or waiting for a delay.
    pub in_flight: u64,
    /// Messages given up.
    pub dead: u64,
    /// When the oldest message that is not acknowledged was sent, microseconds since the Unix epoch, UTC; `None` too
    /// where the service does not tell.
    pub oldest_us: Option<i64>,
}

/// Customer queues: at least once, leased, no order promised.
///
/// A queue of our own keeps what it has seen and tells a stale receipt from a current one; SQS does neither, so no
/// caller may rely on it: a customer drops an event whose id it has seen.
#[async_trait]
pub trait CustomerQueue: Send + Sync {
    /// Puts messages into queues.
    async fn send(&self, messages: &[(QueueName, QueueMessage)], now_us: i64) -> Result<(), PortError>;
    /// Receives up to `messages_max` messages and `bytes_max` bytes (at least one message), hidden for `lease_us`.
    async fn receive(
        &self,
        queue: &QueueName,
        messages_max: u32,
        bytes_max: u64,
        lease_us: i64,
        now_us: i64,
    ) -> Result<Vec<Received>, PortError>;
    /// Removes messages for good; how many of the receipts were current.
    async fn ack(&self, queue: &QueueName, receipts: &[Receipt], now_us: i64) -> Result<u64, PortError>;
    /// Makes messages visible again after a delay; how many of the receipts were current.
    async fn nack(&self, queue: &QueueName, receipts: &[Receipt], visible_us: i64) -> Result<u64, PortError>;
    /// Sets messages aside as dead, with a reason; they are kept and counted, never received again.
    async fn bury(&self, queue: &QueueName, receipts: &[Receipt], reason: &str) -> Result<u64, PortError>;
    /// Its numbers.
    async fn stats(&self, queue: &QueueName, now_us: i64) -> Result<QueueStats, PortError>;
    /// When the next message of any webhook queue becomes visible, microseconds since the Unix epoch, UTC.
    async fn next_webhook_us(&self) -> Result<Option<i64>, PortError>;
}

/// A resource of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// A queue.
    Queue(QueueName),
    /// What posts to an endpoint of the basic class: on AWS an API destination.
    Destination(WebhookEndpointId),
    /// A rule on the delivery bus.
    Rule(Rule),
}

impl Resource {
    /// Its name, unique among resources.
    pub fn name(&self) -> String {
        match self {
            Self::Queue(queue) => queue.to_string(),
            Self::Destination(endpoint) => format!("destination/{endpoint}"),
            Self::Rule(rule) => format!("rule/{}", rule.name),
        }
    }
}

/// Creates and removes customers' resources. Every call is idempotent.
#[async_trait]
pub trait Provisioner: Send + Sync {
    /// Makes a resource; one of the same name and content is success, of other content `Conflict`.
    async fn create(&self, resource: &Resource) -> Result<(), PortError>;
    /// Removes a resource; none is success.
    async fn delete(&self, resource: &Resource) -> Result<(), PortError>;
    /// The resource as it exists, to compare with what was wanted.
    async fn describe(&self, resource: &Resource) -> Result<Option<Resource>, PortError>;
}

/// The way down to vehicles.
#[async_trait]
pub trait Downlink: Send + Sync {
    /// Sends an acknowledgement; it may get lost, the vehicle then sends again.
    async fn ack(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError>;
    /// Sends a request; it may get lost.
    async fn request(&self, vehicle_id: VehicleId, down: &Down) -> Result<(), PortError>;
}

/// An HTTP request of the webhook dispatcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRequest {
    /// Where to post.
    pub url: String,
    /// Headers besides content-type.
    pub headers: Vec<(&'static str, String)>,
    /// The body, JSON.
    pub body: Vec<u8>,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookResponse {
    /// An HTTP answer.
    Status {
        /// Its status code.
        code: u16,
        /// Its `Retry-After` in seconds, where it had one.
        retry_after_s: Option<u64>,
    },
    /// No answer: refused, unreachable, timed out; with the reason.
    NoAnswer(String),
    /// The address is one that webhooks may not reach.
    AddressRefused(String),
}

/// Posts webhooks. It follows no redirect and connects to no private address unless told.
#[async_trait]
pub trait WebhookSender: Send + Sync {
    /// Posts once.
    async fn post(&self, request: &WebhookRequest) -> WebhookResponse;
}
