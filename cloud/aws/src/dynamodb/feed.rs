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
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use self::chain::Chunk;
use super::{CALLS_AT_ONCE, DynamoEventStore, RACE, SERVICE};
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
    /// Chunks that its claim reaches, from the one that is to be put next; 0 where there is no claim.
    reach: u32,
    /// The chunk that the last claim seen names.
    claimed: Option<u64>,
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
    let appends = feeds.into_iter().map(|(feed, entries)| async move {
        let mut new = 0;
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(chunk_len(rest));
            new += append_chunk(store, feed, now).await?;
            rest = later;
        }
        Ok(new)
    });
    stream::iter(appends).buffer_unordered(FEEDS_AT_ONCE).try_fold(0, async |sum, new| Ok(sum + new)).await
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
        entries.iter().map(|entry| Pending { entry, reach: 0, claimed: None }).collect();
    let head = chain::head(store, feed).await?;
    let mut next = head + 1;
    for attempt in 1.. {
        next = claim(store, feed, &mut pending, next).await?;
        if pending.is_empty() {
            // All were there: whoever put the last of them may not have come to the head.
            chain::move_head(store, feed, head, next - 1).await?;
            return Ok(0);
        }
        let chunk = chain::pack(&pending)?;
        match chain::put(store, feed, next, &chunk).await? {
            None => {
                let new = pending.len() as u64;
                chain::move_head(store, feed, head, next + new - 1).await?;
                return Ok(new);
            }
            Some(winner) => next = step_over(&mut pending, next, &winner),
        }
        if !pending.is_empty() && !RACE.pause(attempt, &store.ambient).await {
            break;
        }
    }
    let attempts = RACE.attempts_max;
    Err(unavailable(SERVICE, format!("feed {feed}: other writers were faster {attempts} times")))
}

/// Another writer's chunk lies where ours was to be: what is in it is done with, what is not goes behind it.
fn step_over(pending: &mut Vec<Pending<'_>>, position: u64, chunk: &Chunk) -> u64 {
    pending.retain(|event| !chunk.holds(&event.entry.event_id));
    for event in pending {
        event.reach = event.reach.saturating_sub(1);
    }
    position + chunk.len()
}

/// Claims all events that have no claim which reaches the end of the chain, which is before `next` unless claims show
/// that it is later. What turns out to be in the feed is taken out of `pending`. Returns where the chain ends.
async fn claim(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    pending: &mut Vec<Pending<'_>>,
    mut next: u64,
) -> Result<u64, PortError> {
    loop {
        let wanted = pending.iter().filter(|event| event.reach == 0);
        let wanted: Vec<_> = wanted.map(|event| (&event.entry.event_id, event.claimed)).collect();
        if wanted.is_empty() {
            return Ok(next);
        }
        let calls = wanted.into_iter().map(|(event, known)| async move {
            let claimed = claims::put(store, feed, event, next, known).await?;
            Ok::<_, PortError>((event.clone(), claimed))
        });
        let calls: Vec<_> = calls.collect();
        let claimed: HashMap<EventId, u64> =
            stream::iter(calls).buffer_unordered(CALLS_AT_ONCE).try_collect().await?;
        let mut walks: HashMap<u64, Vec<&EventId>> = HashMap::new();
        for (event, at) in &claimed {
            walks.entry(*at).or_default().push(event);
        }
        let mut end = next;
        let mut reaches = HashMap::new();
        for (at, events) in walks {
            let walked = walk(store, feed, at, next, &events).await?;
            end = end.max(walked.end);
            reaches.extend(events.into_iter().map(|event| (event.clone(), walked.reach_of(event))));
        }
        pending.retain_mut(|event| {
            let Some(reach) = reaches.get(&event.entry.event_id) else { return true };
            event.claimed = claimed.get(&event.entry.event_id).copied();
            event.reach = reach.unwrap_or_default();
            reach.is_some()
        });
        if end > next {
            // The chain has grown: what was claimed reaches less far than was thought. Counted anew.
            pending.iter_mut().for_each(|event| event.reach = 0);
        }
        next = end;
    }
}

/// What the chunks from a claimed one on show.
struct Walk {
    /// Where the chain ends, as far as the walk got.
    end: u64,
    /// Chunks that a claim still reaches from `end` on.
    reach: u32,
    /// Events that are in the feed.
    found: HashSet<EventId>,
}

impl Walk {
    /// What the claim of an event still reaches; none where the event is in the feed.
    fn reach_of(&self, event: &EventId) -> Option<u32> {
        (!self.found.contains(event)).then_some(self.reach)
    }
}

/// Looks for events in the chunks that a claim reaches. `next` is known to lie at or before the end of the chain.
async fn walk(
    store: &DynamoEventStore,
    feed: &SubscriptionId,
    at: u64,
    next: u64,
    events: &[&EventId],
) -> Result<Walk, PortError> {
    let mut walk = Walk { end: at, reach: REACH, found: HashSet::new() };
    while walk.reach > 0 && walk.found.len() < events.len() {
        match chain::get(store, feed, walk.end).await? {
            Some(chunk) => {
                walk.found.extend(events.iter().filter(|event| chunk.holds(event)).map(|event| (*event).clone()));
                walk.end += chunk.len();
                walk.reach -= 1;
            }
            None if walk.end < next => {
                // It was there and its time is over, and so is the time of the event that was claimed for it.
                walk.found.extend(events.iter().map(|event| (*event).clone()));
            }
            None => break,
        }
    }
    Ok(walk)
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
    let next = after.saturating_add(1);
    let mut page = FeedPage { position: after, ..FeedPage::default() };
    let mut reader = chain::Reader::from(store, feed, next, limit);
    let mut chunk = reader.next().await?;
    if chunk.as_ref().is_none_or(|chunk| chunk.first != next) {
        // The next event may lie inside a chunk that begins before it.
        match chain::around(store, feed, next).await? {
            Some(around) => {
                reader.put_back(chunk);
                chunk = Some(around);
            }
            None => {
                page.oldest = match &chunk {
                    Some(chunk) => chunk.first - 1,
                    // Nothing lies behind: a reader before the end has lost all up to it.
                    None => Some(chain::head(store, feed).await?).filter(|end| *end > after).unwrap_or(0),
                };
                page.position = after.max(page.oldest);
            }
        }
    }
    let mut bytes = 0;
    while let Some(Chunk { first, events, .. }) = chunk {
        for (position, event) in (first..).zip(events).filter(|(position, _)| *position > after) {
            if page.entries.len() >= limit as usize || bytes >= PAGE_BYTES_TARGET {
                page.has_more = true;
                return Ok(page);
            }
            bytes += event.body.len();
            page.position = position;
            page.entries.push(event.entry(feed)?);
        }
        chunk = reader.next().await?;
    }
    Ok(page)
}
