//! The event store on DynamoDB, four tables of one form.
//!
//! | table | partition key | sort key | what |
//! |---|---|---|---|
//! | events | `V#vehicle#yyyymmdd` | first sample, boot, lane, sequence | an envelope |
//! | state | `V#vehicle` | `S` | last known state, one packed value |
//! | feed | `F#subscription` | `H`, `C#position` | end of the feed, chunks of it |
//! | feed | `F#subscription#..` | event id | which part of the feed may hold the event |
//! | vehicles | `V#vehicle` | `D` | days on which the vehicle has envelopes |
//! | vehicles | `V#vehicle` | `L#boot` | ledger of a boot, one packed value |
//! | vehicles | `V#vehicle` | `C#key` | a condition |
//! | vehicles | `P#manifest` | `R#..`, `D#digest`, `N#..` | parked records, their digests, their numbers |
//!
//! Every write names its item by what it holds and is conditional, so whatever is done again changes nothing. What is
//! kept for a time carries when it ends; what has ended but is not deleted yet (DynamoDB takes days for it) counts as
//! deleted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use convoy_cloud_core::ambient::Ambient;
use convoy_cloud_core::condition::Condition;
use convoy_cloud_core::identity::SubscriptionId;
use convoy_cloud_core::ledger::{LedgerEntry, LedgerRange};
use convoy_cloud_core::ports::{
    EventQuery, EventStore, FeedEntry, FeedPage, Novelty, PortError, SignalState, StoredEnvelope,
};
use convoy_cloud_core::record::Record;
use convoy_protocol::id::{ManifestId, VehicleId};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::ObjectStore;

use crate::backoff::Backoff;

mod attributes;
mod bodies;
mod client;
mod conditions;
mod days;
mod events;
mod feed;
mod ledger;
mod parked;
mod request;
mod revision;
mod state;

use client::Failed;
use request::Answer;

pub use client::Client;

const SERVICE: &str = "DynamoDB";
/// Calls that are under way at once, of one method and of all together: each has a connection, which takes 20 KB.
const CALLS_AT_ONCE: usize = 32;
/// An item of DynamoDB at most, bytes.
const ITEM_BYTES_MAX: usize = 400 * 1024;
/// A body inside an item at most, bytes: leaves room for keys and the rest. A larger one goes to the bucket.
const BODY_BYTES_MAX: usize = 350 * 1024;
/// For writers that lost a race for one item.
const RACE: Backoff =
    Backoff { attempts_max: 24, first: Duration::from_millis(10), longest: Duration::from_millis(500) };

/// Partition key of every table, a string.
pub const PARTITION_KEY: &str = "pk";
/// Sort key of every table, a string.
pub const SORT_KEY: &str = "sk";
/// When an item ends, seconds since the Unix epoch: the attribute of DynamoDB's time to live.
pub const TTL: &str = "ttl";

/// Names of the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// Envelopes.
    pub events: String,
    /// Last known state.
    pub state: String,
    /// Feeds.
    pub feed: String,
    /// Days, ledger and conditions of vehicles, and parked records.
    pub vehicles: String,
}

impl Tables {
    /// All of them. Each has [`PARTITION_KEY`], [`SORT_KEY`] and [`TTL`], and is billed by request.
    pub fn names(&self) -> [&str; 4] {
        [&self.events, &self.state, &self.feed, &self.vehicles]
    }
}

/// The event store.
#[derive(Clone)]
pub struct DynamoEventStore {
    client: Client,
    tables: Arc<Tables>,
    objects: Arc<dyn ObjectStore>,
    keep_s: i64,
    ambient: Ambient,
    /// Until when days are known to be noted.
    days: Arc<Mutex<HashMap<(VehicleId, String), i64>>>,
}

impl DynamoEventStore {
    /// A store in these tables that keeps envelopes and feeds for `keep_days`. Bodies too large for an item go to
    /// `objects`: those of feeds below `bodies/`, where a rule of the bucket has to delete what is older than
    /// `keep_days` and a day, those of parked records below `parked/`, where the store deletes.
    pub fn new(
        client: Client,
        tables: Tables,
        objects: Arc<dyn ObjectStore>,
        keep_days: u32,
        ambient: Ambient,
    ) -> Self {
        let keep_s = i64::from(keep_days) * days::DAY_S;
        Self { client, tables: Arc::new(tables), objects, keep_s, ambient, days: Arc::default() }
    }

    /// Now, seconds since the Unix epoch.
    fn now_s(&self) -> i64 {
        self.ambient.now_us().div_euclid(1_000_000)
    }
}

/// An item that this code did not write, or that was damaged.
fn damaged(what: &str) -> PortError {
    PortError::Refused { service: SERVICE, reason: format!("an item is damaged: {what}") }
}

/// Makes calls, so many at once, and returns what came of each, in order.
async fn at_once<T>(
    limit: usize,
    calls: Vec<impl Future<Output = Result<T, PortError>>>,
) -> Result<Vec<T>, PortError> {
    stream::iter(calls).buffered(limit).try_collect().await
}

/// Was the condition of a write not met?
fn lost(result: Result<Answer, Failed>) -> Result<bool, PortError> {
    match result {
        Ok(_) => Ok(false),
        Err(Failed::Condition(_)) => Ok(true),
        Err(failed) => Err(failed.into()),
    }
}

#[async_trait]
impl EventStore for DynamoEventStore {
    async fn put_events(&self, events: &[StoredEnvelope]) -> Result<Vec<Novelty>, PortError> {
        events::put(self, events).await
    }

    async fn put_ledger(&self, entries: &[LedgerEntry]) -> Result<(), PortError> {
        ledger::put(self, entries).await
    }

    async fn ledger(&self, vehicle_id: VehicleId) -> Result<Vec<LedgerRange>, PortError> {
        ledger::read(self, vehicle_id).await
    }

    async fn events(&self, query: EventQuery) -> Result<Vec<StoredEnvelope>, PortError> {
        events::read(self, query).await
    }

    async fn put_state(&self, states: &[(VehicleId, Vec<SignalState>)]) -> Result<(), PortError> {
        state::put(self, states).await
    }

    async fn state(&self, vehicle_id: VehicleId) -> Result<Vec<SignalState>, PortError> {
        state::read(self, vehicle_id).await
    }

    async fn conditions(&self, vehicle_id: VehicleId) -> Result<Vec<Condition>, PortError> {
        conditions::read(self, vehicle_id).await
    }

    async fn put_conditions(&self, conditions: &[(VehicleId, Condition)]) -> Result<(), PortError> {
        conditions::put(self, conditions).await
    }

    async fn append_feed(&self, entries: &[FeedEntry]) -> Result<u64, PortError> {
        feed::append(self, entries).await
    }

    async fn feed(
        &self,
        subscription: &SubscriptionId,
        after: u64,
        limit: u32,
    ) -> Result<FeedPage, PortError> {
        feed::page(self, subscription, after, limit).await
    }

    async fn feed_end(&self, subscription: &SubscriptionId) -> Result<u64, PortError> {
        feed::end(self, subscription).await
    }

    async fn park(&self, manifest_id: ManifestId, record: &Record) -> Result<(), PortError> {
        parked::park(self, manifest_id, record).await
    }

    async fn parked(&self, manifest_id: ManifestId, limit: u32) -> Result<Vec<Record>, PortError> {
        parked::read(self, manifest_id, limit).await
    }

    async fn unpark(&self, manifest_id: ManifestId, records: &[Record]) -> Result<(), PortError> {
        parked::unpark(self, manifest_id, records).await
    }
}
