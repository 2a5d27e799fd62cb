//! Feeds: each a chain of chunks without a gap, and for each event a claim that keeps it from coming twice.
//!
//! A chunk holds the events of one append, compressed together, and is named by the position of its first event. The
//! next chunk's name follows from it, and a chunk is put only where none is: of writers that race for the end of the
//! chain one wins, the others read the winner's chunk and go for the place behind it. So nothing is ever put before
//! something that a reader has seen.
//!
//! An event comes once because a writer claims it before. The claim names a chunk of the chain, and the event may be
//! put into that chunk or one of the [`REACH`]` - 1` behind it, by whoever read the claim. A writer that finds a claim
//! looks into the chunks it reaches: there is the event, and it is done with; or they are full without it, and the
//! claim is replaced; or the chain ends before, and the writer competes for the end like everybody. Chunks never
//! change, so what was not in them never will be.
//!
//! The head says where the chain ends. It is written after a chunk, so it may lag behind, after a crash, and then the
//! next writer runs into the chunk and goes on from there. Nothing of this needs a transaction, which costs double:
//! an append writes the chunk, the head and a claim an event.

use std::collections::{HashMap, HashSet};

use convoy_cloud_core::identity::{EventId, SubscriptionId};
use convoy_cloud_core::ports::{FeedEntry, FeedPage, PortError};

use self::chain::Chunk;
use super::{CALLS_AT_ONCE, DynamoEventStore, RACE, SERVICE, at_once};
use crate::error::unavailable;

mod chain;
mod claims;

/// Chunks that a claim reaches.
const REACH: u32 = 8;
/// Events in one chunk at most.
const CHUNK_EVENTS_MAX: usize = 100;
/// A chunk ends before the event that would take its bodies over this size, bytes; compressed they mostly fit an item.
const CHUNK_BYTES_TARGET: usize = 1 << 20;
/// Feeds appended to at once, in one call.
const FEEDS_AT_ONCE: usize = 8;
/// A page ends after the event that takes it over this size, bytes.
const PAGE_BYTES_TARGET: usize = 5 << 20;

/// An event on its way into the feed.
struct Pending<'e> {
    entry: &'e FeedEntry,
    /// The chunk that the last claim seen names.
    claimed: Option<u64>,
    /// Chunks that the claim still reaches, from the one on that is to be put next.
    reach: u32,
}

/// What an append has seen of the chain.
struct Seen {
    /// Position of the chunk that is to be put next; the chain ends there or later.
    next: u64,
    /// Chunks, by position.
    chunks: HashMap<u64, Chunk>,
}

/// Appends; how many events were new.
pub(super) async fn append(store: &DynamoEventStore, entries: &[FeedEntry]) -> Result<u64, PortError> {
    let mut feeds: Vec<(&SubscriptionId, Vec<&FeedEntry>)> = Vec::new();
    let mut places: HashMap<&SubscriptionId, usize> = HashMap::new();
    let mut seen: HashSet<(&SubscriptionId, &EventId)> = HashSet::new();
    for entry in entries.iter().filter(|entry| seen.insert((&entry.subscription_id, &entry.event_id))) {
        let place = *places.entry(&entry.subscription_id).or_insert_with(|| {
            feeds.push((&entry.subscription_id, Vec::new()));
            feeds.len() - 1
        });
        feeds[place].1.push(entry);
    }
    let appends = feeds.into_iter().map(|(feed, entries)| append_to(store, feed, entries)).collect();
    Ok(at_once(FEEDS_AT_ONCE, appends).await?.into_iter().sum())
}

/// Appends to one feed, chunk after chunk.
async fn append_to(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    entries: Vec<&FeedEntry>,
) -> Result<u64, PortError> {
    let mut new = 0;
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let (now, later) = rest.split_at(chunk_len(rest));
        new += append_chunk(store, feed, now).await?;
        rest = later;
    }
    Ok(new)
}

/// How many of these events go into one chunk.
fn chunk_len(entries: &[&FeedEntry]) -> usize {
    let mut bytes = 0;
    let fit = entries.iter().take(CHUNK_EVENTS_MAX).take_while(|entry| {
        bytes += entry.body.len();
        bytes <= CHUNK_BYTES_TARGET
    });
    fit.count().max(1)
}

/// Appends what is not in the feed yet as one chunk.
async fn append_chunk(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    entries: &[&FeedEntry],
) -> Result<u64, PortError> {
    let mut pending: Vec<_> =
        entries.iter().map(|entry| Pending { entry, claimed: None, reach: 0 }).collect();
    let head = chain::head(store, feed).await?;
    let mut seen = Seen { next: head + 1, chunks: HashMap::new() };
    for attempt in 1.. {
        claim(store, feed, &mut pending, &mut seen).await?;
        let new = pending.len() as u64;
        let winner = match new {
            0 => None,
            _ => chain::put(store, feed, seen.next, chain::pack(&pending)?).await?,
        };
        let Some(winner) = winner else {
            // Also where all were there: who put the last of them may not have come to the head.
            chain::move_head(store, feed, head, seen.next + new - 1).await?;
            return Ok(new);
        };
        seen.next += winner.len();
        seen.chunks.insert(winner.first, winner);
        if !RACE.pause(attempt, &store.ambient).await {
            break;
        }
    }
    let reason = format!("other writers of feed {feed} were faster {} times", RACE.attempts_max);
    Err(unavailable(SERVICE, reason))
}

/// Sees to it that every event has a claim which reaches the chunk that is to be put next; what turns out to be in the
/// feed is taken out.
async fn claim(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    pending: &mut Vec<Pending<'_>>,
    seen: &mut Seen,
) -> Result<(), PortError> {
    look(store, feed, pending, seen).await?;
    for _ in 0..RACE.attempts_max {
        let next = seen.next;
        let wanted = pending.iter_mut().filter(|event| event.reach == 0);
        let calls = wanted.map(|event| async move {
            event.claimed = Some(claims::put(store, feed, &event.entry.event_id, next, event.claimed).await?);
            Ok(())
        });
        let calls: Vec<_> = calls.collect();
        if calls.is_empty() {
            return Ok(());
        }
        at_once(CALLS_AT_ONCE, calls).await?;
        // Who claimed later chunks has seen the chain end there.
        seen.next = pending.iter().filter_map(|event| event.claimed).fold(next, u64::max);
        look(store, feed, pending, seen).await?;
    }
    Err(unavailable(SERVICE, format!("claims for feed {feed} were replaced {} times", RACE.attempts_max)))
}

/// Looks for each event into the chunks from the claimed one to the end, and counts how far the claim reaches behind it.
async fn look(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    pending: &mut Vec<Pending<'_>>,
    seen: &mut Seen,
) -> Result<(), PortError> {
    let mut found = HashSet::new();
    for event in pending.iter_mut() {
        let Some(mut position) = event.claimed else { continue };
        event.reach = REACH;
        while position < seen.next && event.reach > 0 {
            if !seen.chunks.contains_key(&position)
                && let Some(chunk) = chain::get(store, feed, position).await?
            {
                seen.chunks.insert(position, chunk);
            }
            let chunk = seen.chunks.get(&position);
            // Where a chunk before the end is not there, its time is over, and so is that of the event.
            let Some(chunk) = chunk.filter(|chunk| !chunk.holds(&event.entry.event_id)) else {
                found.insert(event.entry.event_id.clone());
                break;
            };
            position += chunk.len();
            event.reach -= 1;
        }
    }
    pending.retain(|event| !found.contains(&event.entry.event_id));
    Ok(())
}

/// Position of the newest event.
pub(super) async fn end(store: &DynamoEventStore, feed: &SubscriptionId) -> Result<u64, PortError> {
    let mut end = chain::head(store, feed).await?;
    while let Some(chunk) = chain::get(store, feed, end + 1).await? {
        end += chunk.len();
    }
    Ok(end)
}

/// Reads a page.
pub(super) async fn page(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    after: u64,
    limit: u32,
) -> Result<FeedPage, PortError> {
    let mut reader = chain::Reader::from(store, feed, after.saturating_add(1), limit);
    let oldest = begin(store, feed, after, &mut reader).await?;
    let mut page = FeedPage { position: after.max(oldest), oldest, ..FeedPage::default() };
    let mut bytes = 0;
    while let Some(Chunk { first, events, .. }) = reader.next().await? {
        for (position, event) in (first..).zip(events).filter(|(position, _)| *position > after) {
            if page.entries.len() >= limit as usize || bytes >= PAGE_BYTES_TARGET {
                page.has_more = true;
                return Ok(page);
            }
            bytes += event.body.len();
            page.position = position;
            page.entries.push(event.entry(feed)?);
        }
    }
    Ok(page)
}

/// Makes a reader give the chunk first in which the event after `after` lies. Returns the position before the oldest
/// event that is kept, where that is after `after`: a reader there has lost events. Else 0.
async fn begin(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    after: u64,
    reader: &mut chain::Reader<'_>,
) -> Result<u64, PortError> {
    let next = after.saturating_add(1);
    let first = reader.next().await?;
    if first.as_ref().is_some_and(|chunk| chunk.first == next) {
        reader.put_back(first);
        return Ok(0);
    }
    // The event may lie inside a chunk that begins before it.
    if let Some(around) = chain::around(store, feed, next).await? {
        reader.put_back(first);
        reader.put_back(Some(around));
        return Ok(0);
    }
    if let Some(first) = first {
        let oldest = first.first - 1;
        reader.put_back(Some(first));
        return Ok(oldest);
    }
    // Nothing lies behind. Where the chain ended later than that when asked now, nothing of it is kept, or it has grown
    // meanwhile.
    let end = chain::head(store, feed).await?;
    if end <= after {
        return Ok(0);
    }
    reader.restart();
    let first = reader.next().await?;
    let oldest = first.as_ref().map_or(end, |chunk| chunk.first - 1);
    reader.put_back(first);
    Ok(if oldest > after { oldest } else { 0 })
}
