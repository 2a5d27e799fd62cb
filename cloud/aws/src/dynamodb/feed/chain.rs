//! The chunks of a feed and its head.

use std::collections::VecDeque;

use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::{FeedEntry, PortError};
use serde::{Deserialize, Serialize};

use super::super::attributes::{Item, binary, binary_of, item, number, number_of, sortable, text, text_of};
use super::super::request::Request;
use super::super::{DynamoEventStore, SORT_KEY, TTL, bodies, damaged, lost};
use super::Pending;

/// Sort keys of chunks begin so.
const CHUNK: &str = "C#";
/// Sort key of the head.
const HEAD: &str = "H";
/// Position of the newest event, in the head.
const END: &str = "e";
/// Which append wrote a chunk.
const TOKEN: &str = "t";
/// Folder in the bucket of chunks too large for an item.
const FOLDER: &str = "bodies/feed";
const ZSTD_LEVEL: i32 = 3;
/// Chunks asked for at once.
const CHUNKS_PER_QUERY_MAX: u32 = 50;

/// An event as it lies in a chunk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Event {
    id: String,
    committed_us: i64,
    pub(super) body: Vec<u8>,
}

impl Event {
    /// The event of a feed.
    pub(super) fn entry(self, feed: &SubscriptionId) -> Result<FeedEntry, PortError> {
        let event_id = self.id.parse().map_err(|_| damaged("an event's id"))?;
        let subscription_id = feed.clone();
        Ok(FeedEntry { subscription_id, event_id, body: self.body, committed_us: self.committed_us })
    }
}

/// A chunk.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Position of its first event.
    pub(super) first: u64,
    /// Which append wrote it.
    token: [u8; 16],
    /// Its events, one at least.
    pub(super) events: Vec<Event>,
}

impl Chunk {
    /// Positions that it takes.
    pub(super) fn len(&self) -> u64 {
        self.events.len() as u64
    }

    /// Is this event in it?
    pub(super) fn holds(&self, event: &EventId) -> bool {
        self.events.iter().any(|known| known.id == event.as_str())
    }
}

fn partition(feed: &SubscriptionId) -> String {
    format!("F#{feed}")
}

fn sort_key(position: u64) -> String {
    format!("{CHUNK}{}", sortable(position))
}

/// Packs events that are to be one chunk.
pub(super) fn pack(pending: &[Pending<'_>]) -> Result<Vec<u8>, PortError> {
    let events = pending.iter().map(|Pending { entry, .. }| Event {
        id: entry.event_id.to_string(),
        committed_us: entry.committed_us,
        body: entry.body.clone(),
    });
    let plain = postcard::to_allocvec(&events.collect::<Vec<_>>());
    let plain = plain.map_err(|_| damaged("events cannot be packed"))?;
    zstd::bulk::compress(&plain, ZSTD_LEVEL).map_err(|_| damaged("events cannot be compressed"))
}

async fn unpack(store: &DynamoEventStore, item: &Item) -> Result<Chunk, PortError> {
    let position = text_of(item, SORT_KEY)?.strip_prefix(CHUNK);
    let first = position.and_then(|text| u64::from_str_radix(text, 16).ok());
    let first = first.ok_or_else(|| damaged("position of a chunk"))?;
    let token = binary_of(item, TOKEN)?;
    let token = token.try_into().map_err(|_| damaged("token of a chunk"))?;
    let plain = zstd::decode_all(bodies::of(store, item).await?.as_slice());
    let events: Option<Vec<Event>> = plain.ok().and_then(|plain| postcard::from_bytes(&plain).ok());
    let events = events.filter(|events| !events.is_empty()).ok_or_else(|| damaged("a chunk of a feed"))?;
    Ok(Chunk { first, token, events })
}

/// Where the chain ends, or a little before; 0 where there is none.
pub(super) async fn head(store: &DynamoEventStore, feed: &SubscriptionId) -> Result<u64, PortError> {
    let get = Request::get(&store.tables.feed, item(partition(feed), HEAD)).consistent(true);
    store.client.send(&get).await?.item.map_or(Ok(0), |item| number_of(&item, END))
}

/// Moves the head from where it was seen to `end`, unless it is there or further.
pub(super) async fn move_head(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    seen: u64,
    end: u64,
) -> Result<(), PortError> {
    if end <= seen {
        return Ok(());
    }
    let update = Request::update(&store.tables.feed, item(partition(feed), HEAD), "SET e = :end")
        .only_if("attribute_not_exists(e) OR e < :end")
        .value(":end", number(end));
    lost(store.client.send(&update).await).map(drop)
}

/// Puts a chunk at a position, or returns the one that is there.
pub(super) async fn put(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    position: u64,
    packed: Vec<u8>,
) -> Result<Option<Chunk>, PortError> {
    let token: [u8; 16] = store.ambient.random();
    let mut chunk = item(partition(feed), sort_key(position));
    chunk.insert(TOKEN.into(), binary(token));
    chunk.insert(TTL.into(), number(store.now_s().saturating_add(store.keep_s)));
    // Named for what it holds: another try writes the same object.
    let name = |body: &[u8]| format!("{FOLDER}/{}", blake3::hash(body).to_hex());
    bodies::add(store, &mut chunk, name, packed).await?;
    let put = Request::put(&store.tables.feed, chunk).only_if("attribute_not_exists(pk)");
    if !lost(store.client.send(&put).await)? {
        return Ok(None);
    }
    let there = get(store, feed, position).await?.ok_or_else(|| damaged("a chunk that was there is gone"))?;
    // Ours, where the answer to a first try got lost and there was another.
    Ok(Some(there).filter(|there| there.token != token))
}

/// The chunk that begins at a position, ended or not.
pub(super) async fn get(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    position: u64,
) -> Result<Option<Chunk>, PortError> {
    let keys = item(partition(feed), sort_key(position));
    match store.client.send(&Request::get(&store.tables.feed, keys).consistent(true)).await?.item {
        Some(item) => unpack(store, &item).await.map(Some),
        None => Ok(None),
    }
}

/// Asks for chunks that have not ended, with sort keys as `condition` says.
fn query<'s>(store: &'s DynamoEventStore, feed: &SubscriptionId, condition: &str, at: String) -> Request<'s> {
    Request::query(&store.tables.feed, format!("pk = :pk AND {condition}"))
        .filtered("#ttl > :now")
        .name("#ttl", TTL)
        .value(":pk", text(partition(feed)))
        .value(":at", text(at))
        .value(":now", number(store.now_s()))
}

/// The chunk in which a position lies that is not its first one.
pub(super) async fn around(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    position: u64,
) -> Result<Option<Chunk>, PortError> {
    let query = query(store, feed, "sk BETWEEN :first AND :at", sort_key(position));
    let page = store.client.send(&query.value(":first", text(CHUNK)).backwards().limit(1)).await?;
    let Some(item) = page.items.first() else { return Ok(None) };
    let chunk = unpack(store, item).await?;
    Ok(Some(chunk).filter(|chunk| position - chunk.first < chunk.len()))
}

/// Reads chunks in order.
pub(super) struct Reader<'s> {
    store: &'s DynamoEventStore,
    feed: &'s SubscriptionId,
    from: String,
    per_query: u32,
    items: VecDeque<Item>,
    put_back: Vec<Chunk>,
    next: Option<Item>,
    is_done: bool,
}

impl<'s> Reader<'s> {
    /// Begins with the first chunk that begins at `position` or after; `events` is how many the reader wants.
    pub(super) fn from(
        store: &'s DynamoEventStore,
        feed: &'s SubscriptionId,
        position: u64,
        events: u32,
    ) -> Self {
        // One more, to see whether there is one.
        let per_query = events.saturating_add(1).min(CHUNKS_PER_QUERY_MAX);
        let (from, items) = (sort_key(position), VecDeque::new());
        Self { store, feed, from, per_query, items, put_back: Vec::new(), next: None, is_done: false }
    }

    /// Gives a chunk again next time; of several the last one first.
    pub(super) fn put_back(&mut self, chunk: Option<Chunk>) {
        self.put_back.extend(chunk);
    }

    /// Asks from the beginning again.
    pub(super) fn restart(&mut self) {
        (self.next, self.is_done) = (None, false);
    }

    /// The next chunk, or none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Chunk>, PortError> {
        if let Some(chunk) = self.put_back.pop() {
            return Ok(Some(chunk));
        }
        while self.items.is_empty() && !self.is_done {
            let query = query(self.store, self.feed, "sk BETWEEN :at AND :last", self.from.clone());
            let query = query.value(":last", text(sort_key(u64::MAX))).limit(self.per_query);
            let page = self.store.client.send(&query.after(self.next.take())).await?;
            self.next = page.last_evaluated_key;
            self.is_done = self.next.is_none();
            self.items.extend(page.items);
        }
        match self.items.pop_front() {
            Some(item) => unpack(self.store, &item).await.map(Some),
            None => Ok(None),
        }
    }
}
